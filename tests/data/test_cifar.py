"""CIFAR from parquet files and from torchvision's folders."""

import io
import os
import pickle
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from paredown.errors import UserError


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make(count, seed=0):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8), np.arange(count) % 10


def write_parquet(file, images, labels, column="label", image="img"):
    rows = [{"bytes": png(pixels), "path": None} for pixels in images]
    table = pa.table({image: rows, column: labels.tolist()})
    pq.write_table(table, file)


class PythonTwo(pickle._Pickler):
    """Writes byte strings as Python 2 did, which wrote the published batches."""

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes}


def dump(file, value):
    with file.open("wb") as stream:
        PythonTwo(stream, 2).dump(value)


def write_batches(root, images, labels, test_images, test_labels):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    for number in range(5):
        batch = {"data": rows[number::5], "labels": labels[number::5].tolist()}
        dump(folder / f"data_batch_{number + 1}", batch)
    test = test_images.transpose(0, 3, 1, 2).reshape(len(test_images), 3072)
    batch = {"data": test, "labels": test_labels.tolist()}
    dump(folder / "test_batch", batch)
    names = {"label_names": [f"name{label}" for label in range(10)]}
    dump(folder / "batches.meta", names)
    return folder


def raw(data, split):
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    pairs = [
        (tuple(image.flatten().tolist()), int(label))
        for images, labels in data.eval_loader(split, 64, "cpu")
        for image, label in zip(((images * std + mean) * 255).round().int(), labels, strict=True)
    ]
    return sorted(pairs)


def expected(images, labels):
    return sorted(
        (tuple(image.transpose(2, 0, 1).ravel().tolist()), int(label))
        for image, label in zip(images, labels, strict=True)
    )


def test_the_real_images_have_their_shapes_and_counts(dataset, shared_data, real_cache):
    data = dataset("cifar10", f"dataset.root={shared_data / 'cifar10'}", real_cache)
    data.prepare()
    assert (data.num_classes, data.input_shape) == (10, (3, 32, 32))
    assert data.sizes == {"train": 45000, "val": 5000, "test": 10000}
    for split, count in (("train", 4500), ("val", 500), ("test", 1000)):
        labels = torch.cat([labels for _, labels in data.eval_loader(split, 1000, "cpu")])
        assert torch.bincount(labels).tolist() == [count] * 10
    table = pq.read_table(shared_data / "cifar10" / "test.parquet").slice(0, 40).to_pylist()
    known = {row["img"]["path"].split("/")[0]: row["label"] for row in table}
    assert all(data.class_names[label] == name for name, label in known.items())


def test_parquet_and_torchvisions_batches_hold_the_same_images(dataset, tmp_path):
    (images, labels), (test, truth) = make(60), make(20, seed=1)
    (tmp_path / "parquet").mkdir()
    write_parquet(tmp_path / "parquet" / "train-00000-of-00002.parquet", images[:30], labels[:30])
    write_parquet(tmp_path / "parquet" / "train-00001-of-00002.parquet", images[30:], labels[30:])
    write_parquet(tmp_path / "parquet" / "test-00000-of-00001.parquet", test, truth)
    write_batches(tmp_path / "batches", images, labels, test, truth)
    for root in ("parquet", "batches"):
        data = dataset("cifar10", f"dataset.root={tmp_path / root}", "dataset.validation=0")
        assert raw(data, "train") == expected(images, labels)
        assert raw(data, "test") == expected(test, truth)
    assert data.class_names[3] == "name3"


def test_torchvisions_own_reader_agrees_on_the_batches(dataset, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    (images, labels), (test, truth) = make(20), make(10, seed=1)
    write_batches(tmp_path, images, labels, test, truth)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    theirs = CIFAR10(tmp_path)
    data = dataset("cifar10", f"dataset.root={tmp_path}", "dataset.validation=0")
    assert raw(data, "train") == expected(theirs.data, theirs.targets)


def test_cifar100_takes_the_fine_labels(dataset, tmp_path):
    images, _ = make(200)
    for file in ("train.parquet", "test.parquet"):
        rows = [{"bytes": png(pixels), "path": None} for pixels in images]
        columns = {"img": rows, "coarse_label": [0] * 200, "fine_label": [i % 100 for i in range(200)]}
        pq.write_table(pa.table(columns), tmp_path / file)
    data = dataset("cifar100", f"dataset.root={tmp_path}", "dataset.validation=0")
    data.prepare()
    assert data.num_classes == 100
    labels = torch.cat([labels for _, labels in data.eval_loader("train", 64, "cpu")])
    assert torch.bincount(labels).tolist() == [2] * 100


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-be-here",)


def test_a_batch_that_calls_something_is_refused(dataset, tmp_path):
    folder = write_batches(tmp_path, *make(20), *make(10))
    dump(folder / "data_batch_2", {"data": Evil(), "labels": []})
    with pytest.raises(UserError, match=r"data_batch_2 is not a whole batch of CIFAR: it calls \w+\.system"):
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()


def test_a_truncated_batch_is_named(dataset, tmp_path):
    folder = write_batches(tmp_path, *make(20), *make(10))
    (folder / "test_batch").write_bytes((folder / "test_batch").read_bytes()[:500])
    with pytest.raises(UserError, match="test_batch is not a whole batch"):
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()


def test_a_truncated_parquet_file_is_named(dataset, tmp_path, shared_data):
    whole = (shared_data / "cifar10" / "test.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "test.parquet").write_bytes(whole)
    with pytest.raises(UserError, match=r"train.parquet is not a whole parquet file") as error:
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_named(dataset, tmp_path):
    images, labels = make(20)
    write_parquet(tmp_path / "test.parquet", images, labels)
    rows = [{"bytes": png(pixels), "path": f"{i}.png"} for i, pixels in enumerate(images)]
    rows[7]["bytes"] = rows[7]["bytes"][:900]
    pq.write_table(pa.table({"img": rows, "label": labels.tolist()}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train.parquet, row 7 7.png is not a whole image"):
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()


def test_other_columns_are_named(dataset, tmp_path):
    for file in ("train.parquet", "test.parquet"):
        write_parquet(tmp_path / file, *make(10), column="klass")
    with pytest.raises(UserError, match="has columns img, klass, but none named label"):
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()


def test_no_data_and_no_download(dataset, tmp_path):
    with pytest.raises(UserError, match=r"dataset.root .*train.parquet.*dataset.download=true"):
        dataset("cifar10", f"dataset.root={tmp_path}", "dataset.download=false").prepare()


def test_no_data_and_no_network(dataset, tmp_path, no_network):
    with pytest.raises(UserError, match=r"did not answer .*dataset.root at a folder") as error:
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    assert "\n" not in str(error.value)


def test_a_cached_set_is_opened_without_the_readers(dataset, tmp_path, monkeypatch):
    for file in ("train.parquet", "test.parquet"):
        write_parquet(tmp_path / file, *make(20))
    dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # an import of it would fail
    data = dataset("cifar10", f"dataset.root={tmp_path}")
    data.prepare()
    assert data.sizes["train"] == 18
