"""Parquet files of labelled images: which files are a split, and the layouts of columns that people have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError, printable
from paredown.core.files import reading
from paredown.data.cache import Pixels
from paredown.data.decode import Encoded, arrange, decode

FETCH = "fetch it again"
IMAGES = ("img", "image", "images", "picture", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "pixels")
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "y")
# at the end of a file's name: train-00000-of-00002, which may be followed by a hash; train-0, or 0000
SHARD, NUMBER = re.compile(r"-(\d+)-of-(\d+)(-[0-9a-f]+)?$"), re.compile(r"(?:^|[-_.])(\d+)$")
EXPANSION, SMALL = 40, 2**28  # times that images may be larger than their file, and bytes that any may have
WHITE = 255
BATCH = 256  # rows that are read at once


def find_splits(root: Path, *splits: Sequence[str]) -> list[list[Path]] | None:
    """Return the parquet files of each split, given by its possible names; None where no split has any. Raise UserError
    where some have none, or where the files of one are not each there once."""
    found = [_files(root, names) for names in splits]
    if not any(found):
        return None
    for names, files in zip(splits, found, strict=True):
        if not files:
            there = next(files[0] for files in found if files)
            raise UserError(f"{root} has {there.relative_to(root)}, but no parquet file of the split {names[0]}")
    return found


def _files(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of the first of `names` that has any: NAME.parquet, NAME-*.parquet or NAME/*.parquet (as
    Hugging Face converts them), in `root` or in a folder directly below it."""
    for name in names:
        patterns = [f"{below}{form}.parquet" for below in ("", "*/") for form in (name, f"{name}-*", f"{name}/*")]
        paths = sorted({path for pattern in patterns for path in root.glob(pattern) if not _hidden(path, root)})
        if paths:
            _check_whole(paths, name, root)
            return paths
    return []


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def _check_whole(paths: Sequence[Path], name: str, root: Path) -> None:
    """Raise UserError unless `paths` are the shards of one split, all of them, or its single file."""
    folders = sorted({path.parent for path in paths})
    if len(folders) > 1:
        where = " and ".join(str(folder.relative_to(root)) for folder in folders[:2])
        raise UserError(f"{root} has the split {name} in {where}: its images are there twice, delete one")
    numbers = [found for path in paths if (found := _number(path))]
    single = [path.name for path in paths if not _number(path)]
    if single and len(paths) > 1:
        other = next(path.name for path in paths if path.name != single[0])
        raise UserError(f"{folders[0]} has {single[0]} and {other}: the same images twice? delete one")
    totals = {total for _, total in numbers}
    if len(totals) > 1:
        said = ", ".join(sorted(path.name for path in paths)[:3])
        raise UserError(f"{folders[0]} has shards of several sets ({said}, ...): delete those of all but one")
    shards = sorted(number for number, _ in numbers)
    if (double := next((number for number in shards if shards.count(number) > 1), None)) is not None:
        raise UserError(f"{folders[0]} has the shard {double} of {name} twice: delete one")
    count = totals.pop() if totals else None
    first = 0 if count else min(shards[:1], default=0)  # those that do not say of how many begin with 0 or 1
    if shards and (first > 1 or shards != list(range(first, first + (count or len(shards))))):
        of = f"{count} " if count else ""
        raise UserError(f"{folders[0]} has {len(shards)} of the {of}shards of {name}, not all: fetch the others")


def _number(path: Path) -> tuple[int, int | None] | None:
    """Return the number of a shard, and of how many it says it is; None for a single file."""
    if found := SHARD.search(path.stem):
        return int(found[1]), int(found[2])
    return (int(found[1]), None) if (found := NUMBER.search(path.stem)) else None


@dataclass
class _Rows:
    """The rows of several files: encoded images, their names and where they are, labels, and class names."""

    images: list[Encoded] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)


def read_parquet(
    files: Sequence[Path], labels: Sequence[str] = LABELS, size: int | None = None
) -> tuple[Pixels, list[str]]:
    """Read the images of parquet `files` and, if the files contain them, the class names.

    Columns: the first of `IMAGES` that exists, as bytes, as a struct with `bytes`, or as pixels in lists; and the first
    of `labels`, whole numbers from 0. Raise UserError naming a file that is damaged or has other columns, and a row
    without an image or a label.
    """
    rows = _Rows()
    contents: dict[str, Path] = {}
    for file in files:
        first = len(rows.images)
        with reading(file, FETCH):
            _append(rows, file, labels)
        content = _content(rows, first)
        if content in contents:
            raise UserError(f"{contents[content]} and {file} hold the same images: delete one of them")
        contents[content] = file
    if not rows.images:
        raise UserError(f"{files[0]} holds no images ({FETCH})")
    order = arrange(rows.labels, rows.paths)
    pixels = decode([rows.images[i] for i in order], [rows.places[i] for i in order], size)
    names = rows.class_names if len(rows.class_names) > max(rows.labels) else []
    return Pixels(pixels, np.asarray(rows.labels, np.int64)[order]), names


def _content(rows: _Rows, first: int) -> str:
    found = hashlib.sha256()
    for image, label in zip(rows.images[first:], rows.labels[first:], strict=True):
        found.update(f"{label} ".encode())
        found.update(image.tobytes() if isinstance(image, np.ndarray) else image)  # type: ignore[arg-type]
    return found.hexdigest()


def _append(rows: _Rows, file: Path, labels: Sequence[str]) -> None:
    """Add the rows of `file`. Raise UserError where it holds far more than its size: what it repeats is no data."""
    import pyarrow.parquet

    left = max(SMALL, EXPANSION * file.stat().st_size)
    with pyarrow.parquet.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        image, target = _column(file, schema.names, IMAGES), _column(file, schema.names, labels)
        number = 0
        for batch in opened.iter_batches(BATCH, columns=[image, target]):
            pictures = _plain(batch[image])
            left -= pictures.nbytes
            if left < 0:
                raise UserError(f"{file} holds far more bytes of images than its size ({FETCH})")
            rows.labels += _labels(file, _plain(batch[target]), target, number)
            for encoded, path in _images(file, pictures, image, number):
                rows.images.append(encoded)
                rows.paths.append(path)
                rows.places.append(f"{file}, row {number} {printable(path)}".rstrip())
                number += 1
    if number != opened.metadata.num_rows:
        raise UserError(f"{file} holds {number:,} of the {opened.metadata.num_rows:,} rows that it claims ({FETCH})")
    rows.class_names = rows.class_names or _class_names(schema, target)


def _plain(column: Any) -> Any:
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _column(file: Path, columns: Sequence[str], options: Sequence[str]) -> str:
    for option in options:
        if option in columns:
            return option
    held = printable(", ".join(columns))
    raise UserError(f"{file} has columns {held}, but none named {' or '.join(options)}")


def _labels(file: Path, column: Any, name: str, first: int) -> list[int]:
    """Return the labels of a column from row `first` on. Raise UserError for text, and naming a row without one."""
    import pyarrow as pa

    kind = column.type
    if not pa.types.is_integer(kind):
        raise UserError(
            f"{file}: the column {name} holds {kind}, labels are whole numbers from 0: number the classes in the order "
            f"of their names"
        )
    labels: list[Any] = column.to_pylist()
    for number, label in enumerate(labels, first):
        if label is None or label < 0:
            raise UserError(f"{file}, row {number} has no label ({'null' if label is None else label}): take it out")
        if label > np.iinfo(np.int32).max:
            raise UserError(f"{file}, row {number} has the label {label}: labels are whole numbers from 0")
    return labels


def _images(file: Path, column: Any, name: str, first: int) -> Iterator[tuple[Encoded, str]]:
    """Yield the image of each row from `first` on, and its path if any. Raise UserError naming a row without."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_struct(kind) or _is_binary(kind) or _is_list(kind)):
        raise UserError(f"{file}: the column {name} holds {kind}, no images: save their bytes")
    if pa.types.is_struct(kind) and "bytes" not in [kind.field(i).name for i in range(kind.num_fields)]:
        raise UserError(f"{file}: the column {name} holds {kind}, no bytes of images: save them with their bytes")
    for number, scalar in enumerate(column, first):
        row = None if _is_list(kind) and scalar.is_valid else scalar.as_py()
        encoded = _pixels(scalar, f"{file}, row {number}") if row is None and scalar.is_valid else row
        path = ""
        if isinstance(row, dict):
            encoded, path = row["bytes"], row.get("path") or ""
        if isinstance(encoded, list):  # numbers inside the struct
            encoded = bytes(encoded)
        if encoded is None or (isinstance(encoded, bytes) and not encoded):
            where = f", only the path {printable(str(path))!r}" if path else ""
            raise UserError(f"{file}, row {number} has no image{where}: save the bytes of images, or take the row out")
        yield encoded, str(path)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _pixels(scalar: Any, where: str) -> Encoded:
    """Return an image kept in lists: numbers are the bytes of its file, rows of numbers (H, W) or (H, W, C) its pixels.

    Raise UserError for ragged rows and for numbers that are not whole, from 0 to 255.
    """
    values, shape = scalar.values, [len(scalar.values)]
    while _is_list(values.type):
        lengths = {len(row) for row in values if row.is_valid}
        if values.null_count or len(lengths) != 1:
            raise UserError(f"{where}: its rows of pixels are of several lengths")
        shape.append(lengths.pop())
        values = values.flatten()
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "iu" or not len(numbers) or not 0 <= numbers.min() <= numbers.max() <= WHITE:
        raise UserError(f"{where}: its pixels are not whole numbers from 0 to 255")
    plain = numbers.astype(np.uint8)
    if len(shape) == 1:
        return plain.tobytes()
    if len(shape) > 3 or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise UserError(f"{where}: its pixels are {'x'.join(map(str, shape))}, height x width x channels are needed")
    return plain.reshape(shape[:2] if shape[2:] == [1] else shape)


def _class_names(schema: Any, target: str) -> list[str]:
    """Return the names of the classes in Hugging Face's metadata, none where another tool wrote something else."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[target]["names"]
        if isinstance(names, dict):  # of old versions: by number
            names = [names[str(number)] for number in range(len(names))]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
