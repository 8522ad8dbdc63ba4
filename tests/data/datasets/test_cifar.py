"""CIFAR from parquet files and from torchvision's folders."""

import io
import os
import pickle
import resource
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from paredown.core.errors import UserError
from paredown.data import pickled


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
    assert data.sizes == {"train": 50000, "val": 0, "test": 10000}
    for split, count in (("train", 5000), ("test", 1000)):
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


def test_every_protocol_is_read(tmp_path):
    value = {
        "data": make(3)[0].reshape(3, 3072),
        "labels": [1, 2, 300],
        "batch_label": "x",
        "n": [None, True, (1,), {}],
    }
    for protocol in (3, 4, 5):
        (tmp_path / "batch").write_bytes(pickle.dumps(value, protocol=min(protocol, 4)))
        found = pickled.read(tmp_path / "batch")
        assert np.array_equal(found.pop("data"), value["data"]) and found == {
            k: v for k, v in value.items() if k != "data"
        }
    dump(tmp_path / "batch", value)
    assert np.array_equal(pickled.read(tmp_path / "batch")["data"], value["data"])
    dump(tmp_path / "batch", {"a": np.asfortranarray(make(3)[0][0, :, :, 0]), "b": np.arange(3, dtype=">i4")})
    found = pickled.read(tmp_path / "batch")
    assert np.array_equal(found["a"], make(3)[0][0, :, :, 0]) and found["b"].tolist() == [0, 1, 2]


NO_FIELDS = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"


def pickled_array(rows, kind=b"O8", raw=b"A" * 8 * 2 * 3072, state=NO_FIELDS):
    """The opcodes of an array of `rows` rows whose type and bytes are what the file says."""
    begin = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    shape = b"J" + struct.pack("<i", rows) + b"M\x00\x0c\x86"
    dtype = b"cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R(K\x03U\x01|" + state + b"tb"
    return begin + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"


PLAIN_ARRAY = {"kind": b"u1", "raw": b"A" * 2 * 3072}
HOSTILE = {
    "objects": pickled_array(2),
    "objects that say they are none": pickled_array(2, state=b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?"),
    "floats": pickled_array(2, kind=b"f4", raw=b"A" * 4 * 2 * 3072),
    "a record": pickled_array(2, **PLAIN_ARRAY, state=b"NU\x01a\x85}NJ\xff\xff\xff\xffK\x01K\x00"),
    "fewer bytes": pickled_array(3, **PLAIN_ARRAY),
    "no end of rows": pickled_array(2**31 - 1, **PLAIN_ARRAY),
    "rows below nothing": pickled_array(-1, **PLAIN_ARRAY),
    "a type that numpy evaluates": pickled_array(2, kind=b"(2,)i4,V9", raw=b""),
    "a call": b"cos\nsystem\nU\x04true\x85R",
    "a call by other names": b"U\x02osU\x06system\x93U\x04true\x85R",
    "numpy's own functions": b"cnumpy\nfromfile\nU\x0b/etc/passwd\x85R",
    "an attribute of what is known": b"cnumpy\nndarray.__class__\n",
    "a built list": b"](K\x00K\x00K\x00K\x00K\x00tb",
    "an array built twice": pickled_array(2, **PLAIN_ARRAY) + b"(K\x01NNNNtb",
    "an instance": b"(cos\nsystem\nU\x04trueo",
    "an older instance": b"(U\x04trueios\nsystem\n",
    "a new object": b"cnumpy\nndarray\n)\x81",
    "a persistent id": b"Pnumpy\n",
    "an extension": b"\x82\x01",
    "a memo without end": b"K\x01r\xff\xff\xff\x7fh\x07",
    "a text without end": b"X\xff\xff\xff\x7fabc",
    "bytes without end": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "numbers without end": b"\x8b\xff\xff\xff\x7f1",
    "a key that hashes for ever": b")" + b"\x85" * 100_000 + b"K\x01s",
    "doubled for ever": b"]q\x00" + b"".join(b"(h%ch%cl\x94" % (n, n) for n in range(60)) + b"U\x01x\x93",
    "a million lists": b"]" * 3_000_000,
    "an empty stack": b"aaaa",
    "no mark": b"t",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.timeout(60)
def test_a_batch_is_data(what, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}(U\x04data" + HOSTILE[what] + b"U\x06labels](K\x00K\x01eu.")
    with pytest.raises(ValueError, match=r"\w"):
        pickled.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("labels", ["text", [1.5, 2], [[1], [2]], [True, False], [-1, 2], [1], [10, 11], None])
def test_labels_are_numbers_of_classes(labels, dataset, tmp_path):
    folder = write_batches(tmp_path, *make(20), *make(10))
    dump(folder / "data_batch_2", {"data": make(2)[0].reshape(2, 3072), "labels": labels})
    with pytest.raises(
        UserError, match=r"data_batch_2 is not a batch of CIFAR|labels of 10 and above|not a whole batch"
    ):
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
    with pytest.raises(UserError, match=r"train.parquet cannot be read") as error:
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_named(dataset, tmp_path):
    images, labels = make(20)
    write_parquet(tmp_path / "test.parquet", images, labels)
    rows = [{"bytes": png(pixels), "path": f"{i}.png"} for i, pixels in enumerate(images)]
    rows[7]["bytes"] = rows[7]["bytes"][:900]
    pq.write_table(pa.table({"img": rows, "label": labels.tolist()}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train.parquet, row 7 7.png cannot be read"):
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
    with pytest.raises(UserError, match=r"could not be downloaded .*dataset.root at a folder") as error:
        dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    assert "\n" not in str(error.value)


def test_a_cached_set_is_opened_without_the_readers(dataset, tmp_path, monkeypatch):
    for file in ("train.parquet", "test.parquet"):
        write_parquet(tmp_path / file, *make(20))
    dataset("cifar10", f"dataset.root={tmp_path}").prepare()
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # an import of it would fail
    data = dataset("cifar10", f"dataset.root={tmp_path}")
    data.prepare()
    assert data.sizes["train"] == 20


def test_a_variant_that_does_not_exist_is_refused(dataset):
    with pytest.raises(UserError, match=r"dataset\.variant=20: .*known: 10, 100"):
        dataset("cifar10", "dataset.variant=20")
