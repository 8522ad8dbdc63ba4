"""Decoders: images, as files, bytes or arrays, to arrays of RGB."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError, printable
from paredown.core.files import reading

if TYPE_CHECKING:
    from PIL.Image import Image

SHUFFLE_SEED = 20240229  # for images stored sorted by class: neighbours should not share a class


Encoded = Path | bytes | NDArray[np.uint8]  # an image file, its bytes, or pixels (H, W) or (H, W, C)
# decoded by Pillow or a library that it links; others of its formats start programs (EPS: Ghostscript)
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
DEEP = ("I", "F")  # and I;16 and others: Pillow's modes of more than eight bits, which it clips to white


def open_image(source: Encoded, name: str) -> Image:
    """Decode an image as RGB, as torchvision does: without transparency, the first of several frames. Raise UserError
    naming it if it is damaged, of none of FORMATS, larger than Pillow's limit, or has more than eight bits a channel.
    """
    from PIL import Image

    with reading(f"image {printable(name)}", "mend it, or take it out"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _opened(source) as image:
            if image.mode.partition(";")[0] in DEEP:
                raise UserError(
                    f"image {printable(name)} has more than 8 bits a channel (Pillow's mode {image.mode}): convert it "
                    f"to 8 bits, so that its levels are scaled as you want them"
                )
            return image.convert("RGB")


@cache
def _formats() -> list[str]:
    """Return those of FORMATS that the installed Pillow reads: AVIF came late."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(source: Encoded) -> Image:
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(f"it is damaged, or of none of the formats {', '.join(_formats())}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"it has more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are safe to decode") from error


def centre(image: Image, scaled: tuple[int, int], size: tuple[int, int]) -> Image:
    """Scale `image` to cover the height and width `scaled` and cut `size` from its centre: the evaluation's transform.
    The script that ships with an export (`export/usage.py`) does the same without this package."""
    covering = cover(image, scaled)
    left, top = (scaled[1] - size[1]) // 2, (scaled[0] - size[0]) // 2
    return covering if scaled == size else covering.crop((left, top, left + size[1], top + size[0]))


def cover(image: Image, size: tuple[int, int]) -> Image:
    """Scale `image` until it just covers the height and width `size`, and cut these from its centre."""
    from PIL import Image

    height, width = size
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    wide, tall = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if wide * tall > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UserError(f"an image of {image.width}x{image.height} pixels is too thin to be scaled to {width}x{height}")
    left, top = (wide - width) // 2, (tall - height) // 2
    scaled = image.resize((wide, tall), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + width, top + height))


def decode(sources: Sequence[Encoded], names: Sequence[str], size: int | None) -> NDArray[np.uint8]:
    """Decode all images to (n, H, W, 3) uint8. Raise UserError for a damaged image, and for one of another size than
    the first.

    Single-threaded: for small images PIL holds the interpreter lock most of the time, and threads were slower.
    """
    out: NDArray[np.uint8] | None = None
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        with reading(name, "take it out"):
            pixels = np.asarray(_scaled(open_image(source, name), size))
        if out is None:
            out = _space(len(sources), pixels.shape)
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


def _scaled(image: Image, size: int | None) -> Image:
    return image if size is None else cover(image, (size, size))


def _space(count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError as error:
        height, width = shape[:2]
        raise UserError(
            f"{count:,} images of {width}x{height} pixels do not fit into memory: dataset.size=N scales them down"
        ) from error


def arrange(labels: Sequence[int], names: Sequence[str]) -> list[int]:
    """Return an order that does not depend on how the images were stored: by label and file name, then shuffled."""
    order = sorted(range(len(labels)), key=lambda i: (labels[i], Path(names[i]).name))
    return [order[i] for i in np.random.RandomState(SHUFFLE_SEED).permutation(len(order))]
