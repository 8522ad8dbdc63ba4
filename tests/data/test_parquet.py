"""Parquet files as people have them: their columns, their shards, and what is refused rather than trained on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from paredown.core.errors import UserError
from paredown.data.parquet import find_splits, read_parquet

COUNT = 12


def pixels(number: int) -> np.ndarray:
    return np.random.RandomState(number).randint(0, 256, (6, 5, 3)).astype(np.uint8)


def encoded(number: int) -> bytes:
    Image.fromarray(pixels(number)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


LABELS = [number % 3 for number in range(COUNT)]
FIXED = pa.list_(pa.list_(pa.list_(pa.int64(), 3), 5), 6)
IMAGES = {
    "a struct as Hugging Face writes it": ("img", lambda i: {"bytes": encoded(i), "path": f"{i:02d}.png"}, None),
    "a struct without path": ("image", lambda i: {"bytes": encoded(i)}, None),
    "plain bytes": ("jpg", encoded, None),
    "numbers of a file": ("image", lambda i: list(encoded(i)), pa.list_(pa.uint8())),
    "large lists": ("image", lambda i: list(encoded(i)), pa.large_list(pa.int64())),
    "pixels": ("image", lambda i: pixels(i).tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))),
    "pixels of fixed length": (
        "pixels",
        lambda i: pixels(i).tolist(),
        pa.list_(pa.list_(pa.list_(pa.int64(), 3), 5), 6),
    ),
}


def write(path: Path, name: str, images: list, labels: object, kind: pa.DataType | None = None, label: str = "label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(images, kind), label: labels, "other": [1] * len(images)})
    pq.write_table(table, path)
    return path


def plain(path: Path, start: int = 0, count: int = COUNT) -> Path:
    return write(path, "image", [encoded(i) for i in range(start, start + count)], [i % 3 for i in range(count)])


@pytest.mark.parametrize("form", IMAGES)
@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
def test_the_columns_that_people_have_hold_the_same_images(form: str, label: str, tmp_path: Path) -> None:
    name, image, kind = IMAGES[form]
    file = write(tmp_path / "train.parquet", name, [image(i) for i in range(COUNT)], LABELS, kind, label)
    found, names = read_parquet([file])
    content = {(int(y), x.tobytes()) for x, y in zip(found.images, found.labels, strict=True)}
    assert content == {(LABELS[i], pixels(i).tobytes()) for i in range(COUNT)} and names == []


WRONG = {
    "a path alone": (lambda i: {"bytes": None, "path": f"/there/{i}.png"}, LABELS, "row 0 has no image, only the path"),
    "a null row": (lambda i: None if i == 5 else encoded(i), LABELS, "row 5 has no image"),
    "an empty row": (lambda i: b"" if i == 5 else encoded(i), LABELS, "row 5 has no image"),
    "paths": (lambda i: f"{i}.png", LABELS, "the column image holds string"),
    "text": (encoded, ["cat"] * COUNT, "the column label holds string, labels are whole numbers"),
    "a null label": (encoded, [*LABELS[:4], None, *LABELS[5:]], r"row 4 has no label \(null"),
    "no label of a test set": (encoded, [-1] * COUNT, r"row 0 has no label \(-1"),
    "fractions": (encoded, [float(label) for label in LABELS], "holds double"),
    "a huge label": (encoded, [2**40] * COUNT, "row 0 has the label 1099511627776"),
    "flags": (encoded, [True] * COUNT, "holds bool"),
    "large numbers": (lambda i: [300, 2], LABELS, "row 0: its pixels are not whole numbers from 0 to 255"),
    "fractions of pixels": (lambda i: [[0.5, 0.25]], LABELS, "row 0: its pixels are not whole"),
    "ragged pixels": (lambda i: [[1, 2], [3]], LABELS, "row 0: its rows of pixels are of several lengths"),
    "channels first": (lambda i: pixels(i).transpose(2, 0, 1).tolist(), LABELS, "row 0: its pixels are 3x6x5"),
    "a cut image": (lambda i: encoded(i)[:60], LABELS, r"train.parquet, row \d+ cannot be read"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_labelled_image_is_refused_and_named(what: str, tmp_path: Path) -> None:
    image, labels, says = WRONG[what]
    file = write(tmp_path / "train.parquet", "image", [image(i) for i in range(COUNT)], labels)
    with pytest.raises(UserError, match=says) as error:
        read_parquet([file])
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}, ["a", "b", "c"]),
        ({"info": {"features": {"label": {"names": {"0": "a", "1": "b", "2": "c"}}}}}, ["a", "b", "c"]),
        ({"info": {"features": {"label": {"names": ["a", "b"]}}}}, []),  # fewer than there are labels
        ({"info": {"features": {"label": {"names": "abc"}}}}, []),
        ({"features": {}}, []),
        ({"info": {"features": None}}, []),
        ("no json", []),
        ([], []),
    ],
)
def test_metadata_give_class_names_or_nothing(metadata: object, names: list[str], tmp_path: Path) -> None:
    file = plain(tmp_path / "train.parquet")
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": text}), file)
    assert read_parquet([file])[1] == names


LAYOUTS = {
    "one file": ["train.parquet"],
    "shards": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
    "shards with a hash": ["data/train-00000-of-00001-b42a775f407cee45.parquet"],
    "a configuration's folder": ["plain_text/train-00000-of-00001.parquet"],
    "converted": ["default/train/0000.parquet", "default/train/0001.parquet"],
    "numbered": ["train-1.parquet", "train-2.parquet"],
    "beside hidden files": ["train.parquet", "._train.parquet", ".cache/train.parquet", "__MACOSX/train.parquet"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(layout: str, tmp_path: Path) -> None:
    for name in [*LAYOUTS[layout], "test.parquet"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_splits(tmp_path, ("train",), ("test",))
    seen = [name for name in LAYOUTS[layout] if "._" not in name and ".cache" not in name and "MACOSX" not in name]
    assert found == [[tmp_path / name for name in seen], [tmp_path / "test.parquet"]]


MISTAKES = {
    "half of the shards": (["train-00000-of-00002.parquet"], "1 of the 2 shards of train"),
    "a shard in the middle": (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "2 of the 3 shards"),
    "a numbered file alone": (["train-00003.parquet"], "1 of the shards of train, not all"),
    "a stale single file": (["train.parquet", "train-00000-of-00001.parquet"], "the same images twice"),
    "two configurations": (["a/train.parquet", "b/train.parquet"], "has the split train in a and b"),
    "a configuration and the root": (["train.parquet", "b/train.parquet"], r"in \. and b"),
    "two sets of shards": (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"], "shards of several sets"),
    "two uploads": (
        ["train-00000-of-00001-aaaa.parquet", "train-00000-of-00001-bbbb.parquet"],
        "shard 0 of train twice",
    ),
    "two files": (["train-clean.parquet", "train-all.parquet"], "the same images twice"),
    "no training images": ([], "no parquet file of the split train"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_files_that_are_not_each_there_once_are_refused(mistake: str, tmp_path: Path) -> None:
    names, says = MISTAKES[mistake]
    for name in [*names, "test.parquet"]:
        plain(tmp_path / name)
    with pytest.raises(UserError, match=says):
        find_splits(tmp_path, ("train",), ("test",))


def test_no_parquet_at_all_is_another_matter(tmp_path: Path) -> None:
    assert find_splits(tmp_path, ("train",), ("test",)) is None


def test_two_files_of_the_same_rows_are_refused(tmp_path: Path) -> None:
    files = [plain(tmp_path / f"train-0000{number}-of-00002.parquet") for number in range(2)]
    with pytest.raises(UserError, match="hold the same images"):
        read_parquet(files)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.binary()), pa.binary()], ids=str)
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(kind: pa.DataType, tmp_path: Path, monkeypatch) -> None:
    """Parquet's dictionaries repeat one value at no cost."""
    monkeypatch.setattr("paredown.data.parquet.SMALL", 2**20)
    image = np.random.RandomState(0).bytes(2**18)
    table = pa.table({"image": pa.array([image] * 100).dictionary_encode().cast(kind), "label": [0] * 100})
    pq.write_table(table, file := tmp_path / "train.parquet", dictionary_pagesize_limit=2**20)
    assert file.stat().st_size < 2**19
    with pytest.raises(UserError, match="far more bytes"):
        read_parquet([file])
