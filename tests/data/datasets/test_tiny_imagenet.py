"""Tiny-ImageNet as parquet files and unfolded into its own layout is one data set."""

import pyarrow.parquet as pq
import pytest
import torch

from paredown.core.errors import UserError


@pytest.fixture(scope="module")
def both(shared_data, tmp_path_factory):
    """A part of the shared images twice: as parquet files, and in the layout of tiny-imagenet-200."""
    source, root = shared_data / "tiny-imagenet-20", tmp_path_factory.mktemp("tiny")
    parquet, folders = root / "parquet", root / "folders"
    parquet.mkdir()
    (parquet / "classes.txt").write_text((source / "classes.txt").read_text())
    names = [line.split()[0] for line in (source / "classes.txt").read_text().splitlines()]
    for split in ("train", "valid"):
        table = pq.read_table(source / f"{split}.parquet")
        table = table.slice(0, 600 if split == "train" else 200)
        pq.write_table(table, parquet / f"{split}.parquet")
        lines = []
        for row in table.to_pylist():
            file = folders / row["image"]["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(row["image"]["bytes"])
            lines.append(f"{file.name}\t{names[row['label']]}\t0\t0\t62\t62\n")
    (folders / "val" / "val_annotations.txt").write_text("".join(lines))
    return parquet, folders


def test_both_layouts_give_the_same_data_set(dataset, both):
    first, second = (dataset("tiny_imagenet", f"dataset.root={root}") for root in both)
    first.prepare()
    second.prepare()
    assert first.key == second.key
    assert first.class_names == second.class_names
    assert (first.num_classes, first.input_shape) == (20, (3, 64, 64))
    for (images, labels), (others, other_labels) in zip(
        first.train_loader(64, 0, "cpu"), second.train_loader(64, 0, "cpu"), strict=True
    ):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_the_first_classes_are_those_of_the_sorted_ids(dataset, both):
    data = dataset("tiny_imagenet", f"dataset.root={both[1]}", "dataset.classes=5")
    data.prepare()
    assert data.class_names == tuple(sorted(path.name for path in (both[1] / "train").iterdir())[:5])


def test_neighbours_do_not_share_a_class(dataset, both):
    data = dataset("tiny_imagenet", f"dataset.root={both[1]}")
    labels = next(iter(data.eval_loader("train", 100, "cpu")))[1]
    assert len(labels.unique()) > 10  # a first batch of one class would mislead whoever calibrates on it


def test_all_shared_images_are_read(dataset, shared_data, real_cache):
    root = f"dataset.root={shared_data / 'tiny-imagenet-20'}"
    data = dataset("tiny_imagenet", root, real_cache, "dataset.validation=0")
    data.prepare()
    assert data.sizes == {"train": 10000, "val": 0, "test": 1000}
    labels = torch.cat([labels for _, labels in data.eval_loader("test", 100, "cpu")])
    assert torch.bincount(labels).tolist() == [50] * 20


def test_no_data(dataset, tmp_path):
    with pytest.raises(UserError, match=r"point dataset.root at the unpacked"):
        dataset("tiny_imagenet", f"dataset.root={tmp_path}").prepare()


def test_annotations_that_do_not_fit_are_named(dataset, tmp_path, both):
    import shutil

    root = shutil.copytree(both[1], tmp_path / "copy")
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text() + "val_0.JPEG\tn999\t0\n")
    with pytest.raises(UserError, match=r"val_annotations.txt, line 201: expected"):
        dataset("tiny_imagenet", f"dataset.root={root}").prepare()
