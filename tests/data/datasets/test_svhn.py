"""SVHN from its .mat files and from parquet files: the same images, zero called 10, extra images asked for or not."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from paredown.core.errors import UserError


def make(count: int, seed: int = 0):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8), np.arange(count) % 10


def write_mat(file, images, labels) -> None:
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)})


def write_parquet(file, images, labels) -> None:
    rows = []
    for pixels in images:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None})
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": rows, "label": labels.tolist()}), file)


def content(data, split: str) -> set[tuple[int, bytes]]:
    """Every image as its label and its pixels in 0 to 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    found = set()
    for images, labels in data.eval_loader(split, 64, "cpu"):
        pixels = ((images * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        found |= {(int(label), image.numpy().tobytes()) for image, label in zip(pixels, labels, strict=True)}
    return found


def expected(images, labels) -> set[tuple[int, bytes]]:
    return {(int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)}


PARTS = {"train": make(60), "test": make(20, 1), "extra": make(30, 2)}


@pytest.mark.parametrize("kind", ["mat", "parquet"])
@pytest.mark.parametrize("extra", [False, True])
def test_both_kinds_of_files_hold_the_same_images(kind, extra, dataset, tmp_path) -> None:
    for split, (images, labels) in PARTS.items():
        if kind == "mat":
            write_mat(tmp_path / f"{split}_32x32.mat", images, labels)
        else:
            write_parquet(tmp_path / "cropped_digits" / f"{split}-00000-of-00001.parquet", images, labels)
    data = dataset("svhn", f"dataset.root={tmp_path}", "dataset.validation=0", f"dataset.extra={str(extra).lower()}")
    data.prepare()
    assert data.input_shape == (3, 32, 32) and data.class_names == tuple("0123456789")
    assert content(data, "test") == expected(*PARTS["test"])
    more = expected(*PARTS["extra"]) if extra else set()
    assert content(data, "train") == expected(*PARTS["train"]) | more


def test_torchvisions_own_reader_agrees(tmp_path, dataset, monkeypatch) -> None:
    from torchvision.datasets import SVHN

    for split in ("train", "test"):
        write_mat(tmp_path / f"{split}_32x32.mat", *PARTS[split])
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    theirs = SVHN(str(tmp_path), "train")
    data = dataset("svhn", f"dataset.root={tmp_path}", "dataset.validation=0")
    assert content(data, "train") == expected(np.ascontiguousarray(theirs.data.transpose(0, 2, 3, 1)), theirs.labels)


def test_extra_images_are_another_data_set(dataset, tmp_path) -> None:
    for split, part in PARTS.items():
        write_mat(tmp_path / f"{split}_32x32.mat", *part)
    keys = set()
    for extra in ("false", "true"):
        data = dataset("svhn", f"dataset.root={tmp_path}", f"dataset.extra={extra}")
        data.prepare()
        keys.add(data.key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:300]), "train_32x32.mat.*cut short"),
        (lambda file: savemat(file, {"X": np.zeros((2, 2))}), "train_32x32.mat holds no numbers called y"),
        (lambda file: savemat(file, {"X": np.zeros((2, 2)), "y": [1]}), r"is not SVHN: it needs X \(32, 32, 3, n\)"),
    ],
)
def test_a_damaged_file_is_named(damage, says, dataset, tmp_path) -> None:
    for split in ("train", "test"):
        write_mat(tmp_path / f"{split}_32x32.mat", *PARTS[split])
    damage(tmp_path / "train_32x32.mat")
    with pytest.raises(UserError, match=says) as error:
        dataset("svhn", f"dataset.root={tmp_path}").prepare()
    assert "\n" not in str(error.value)


def test_no_data_is_one_line_that_says_how_to_get_it(dataset, tmp_path, no_network) -> None:
    with pytest.raises(UserError, match=r"train_32x32.mat and test_32x32.mat.*dataset.download=true"):
        dataset("svhn", f"dataset.root={tmp_path}", "dataset.download=false").prepare()
    with pytest.raises(UserError, match=r"could not be downloaded .*extra_32x32.mat"):
        dataset("svhn", f"dataset.root={tmp_path}", "dataset.extra=true").prepare()
    with pytest.raises(UserError, match=r"dataset\.extra='both' \(true or false\)"):
        dataset("svhn", "dataset.extra=both")


def test_a_root_that_cannot_be_written_is_one_line(dataset, tmp_path, no_network) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"no SVHN in .*file.sub, and it could not be downloaded \(.*\): point dataset.root"
    ):
        dataset("svhn", f"dataset.root={tmp_path / 'file' / 'sub'}", "dataset.download=true").prepare()
