"""Encoded images to arrays, and parquet files of them in the layout Hugging Face uses."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paredown.data.cache import Pixels
from paredown.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SHUFFLE = 20240229  # order of images that come sorted by class, so that no consecutive ones share a class


def open_image(source: Path | bytes, name: str) -> Image:
    """An RGB image, fully decoded. Raises UserError naming a damaged one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is not a whole image: {reason} (restore it, or take it out)") from error


def fit(image: Image, size: int | None) -> Image:
    """The shorter side scaled to `size` pixels and the centre square cut out; None leaves the image alone."""
    from PIL import Image

    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    wide, tall = (max(size, round(side * scale)) for side in image.size)
    left, top = (wide - size) // 2, (tall - size) // 2
    scaled = image.resize((wide, tall), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


def decode(sources: Sequence[Path | bytes], names: Sequence[str], size: int | None) -> NDArray[np.uint8]:
    """All images as (n, H, W, 3) uint8. Raises UserError for a damaged image, or one of another size than
    the first.

    In one thread: for images this small PIL holds the interpreter most of the time, and threads made it
    slower.
    """
    out: NDArray[np.uint8] | None = None
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        pixels = np.asarray(fit(open_image(source, name), size))
        if out is None:
            out = np.empty((len(sources), *pixels.shape), np.uint8)
        if pixels.shape != out.shape[1:]:
            (height, width), (first_height, first_width) = pixels.shape[:2], out.shape[1:3]
            raise UserError(
                f"{name} is {width}x{height} pixels, {names[0]} is {first_width}x{first_height}: "
                f"dataset.size=N scales all to one size"
            )
        out[index] = pixels
    if out is None:
        raise UserError("there are no images to decode")
    return out


def arrange(labels: Sequence[int], names: Sequence[str]) -> list[int]:
    """One order for the same images, however they were stored: by label and file name, then shuffled."""
    order = sorted(range(len(labels)), key=lambda i: (labels[i], Path(names[i]).name))
    return [order[i] for i in np.random.RandomState(SHUFFLE).permutation(len(order))]


def find_parquet(root: Path, *splits: str) -> list[Path]:
    """The parquet files of the first of `splits` that has any: `train.parquet` or `train-*.parquet`, in
    `root` or one folder below it."""
    for split in splits:
        for folder in ("", "*/"):
            if files := sorted([*root.glob(f"{folder}{split}.parquet"), *root.glob(f"{folder}{split}-*.parquet")]):
                return files
    return []


def read_parquet(files: Sequence[Path], labels: Sequence[str], size: int | None = None) -> tuple[Pixels, list[str]]:
    """The images of parquet `files` and, where the files say, the names of their classes.

    The columns: `img` or `image` (struct of `bytes` and `path`), and the first of `labels` that is there.
    Raises UserError naming a file that is damaged or has other columns.
    """
    encoded: list[bytes] = []
    names: list[str] = []
    paths: list[str] = []
    targets: list[int] = []
    class_names: list[str] = []
    for file in files:
        table = _read_table(file)
        image = _column(file, table, ("img", "image"))
        target = _column(file, table, labels)
        rows = table[image].to_pylist()
        encoded += [row["bytes"] for row in rows]
        paths += [row["path"] or "" for row in rows]
        names += [f"{file}, row {number} {row['path'] or ''}".rstrip() for number, row in enumerate(rows)]
        targets += table[target].to_pylist()
        class_names = class_names or _class_names(table, target)
    if any(not isinstance(target, int) or target < 0 for target in targets):
        raise UserError(f"{files[0].parent}: some images have no label (labels are whole numbers from 0)")
    order = arrange(targets, paths)
    pixels = decode([encoded[i] for i in order], [names[i] for i in order], size)
    return Pixels(pixels, np.asarray(targets, np.int64)[order]), class_names


def _read_table(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} is not a whole parquet file: {reason} (fetch it again)") from error


def _column(file: Path, table: Any, options: Sequence[str]) -> str:
    for option in options:
        if option in table.column_names:
            return option
    raise UserError(f"{file} has columns {', '.join(table.column_names)}, but none named {' or '.join(options)}")


def _class_names(table: Any, target: str) -> list[str]:
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata)["info"]["features"] if metadata else {}
    return features.get(target, {}).get("names", [])
