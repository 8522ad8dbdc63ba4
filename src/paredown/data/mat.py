"""Numeric arrays of MATLAB's files of level 5 (MAT-File Format, The MathWorks, 2019), as SVHN is published in.

Not by scipy: a damaged file makes its reader fault, which ends the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError
from paredown.core.files import reading

HEADER, TAG = 128, 8  # bytes
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
NUMERIC = range(6, 16)  # classes of arrays: double, single and the whole numbers
EXPANSION, SMALL = 100, 2**20  # times that a compressed array may be larger than its file, and bytes that any may have


def read_mat(path: Path, names: set[str], remedy: str) -> dict[str, NDArray[Any]]:
    """Return the numeric arrays called `names` in the file `path`. Raise UserError where it is damaged or lacks one."""
    with reading(path, remedy):
        content = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
        if order is None:
            raise UserError(f"{path} is no MATLAB file of level 5 ({remedy})")
        most = max(SMALL, EXPANSION * len(content))
        found: dict[str, NDArray[Any]] = {}
        for element in _elements(memoryview(content)[HEADER:], order):
            kind, data = _unpacked(*element, order, most)
            if kind == MATRIX:
                name, array = _array(data, order)
                found |= {name: array} if name in names and array is not None else {}
        if missing := sorted(names - found.keys()):
            raise UserError(f"{path} holds no numbers called {missing[0]} ({remedy})")
        return found


def _unpacked(kind: int, data: memoryview, order: str, most: int) -> tuple[int, memoryview]:
    """Return the element inside a compressed one, of which at most `most` bytes are unpacked."""
    if kind != COMPRESSED:
        return kind, data
    return next(_elements(memoryview(zlib.decompressobj().decompress(data, most)), order))


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and the bytes of each element of `data`. Raise UserError where one ends after it."""
    place = 0
    while place + TAG <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # up to four bytes, in the place of the size
            kind, size = kind & 0xFFFF, kind >> 16
            start, after = place + TAG // 2, place + TAG
        else:
            start = place + TAG
            after = start + (size if kind == COMPRESSED else -(-size // TAG) * TAG)
        if start + size > len(data):
            raise UserError("it is cut short")
        yield kind, data[start : start + size]
        place = after


def _array(data: memoryview, order: str) -> tuple[str, NDArray[Any] | None]:
    """Return the name and the values of an array, None for one that holds no plain numbers."""
    parts = list(islice(_elements(data, order), 4))
    if len(parts) < 4:
        return "", None
    (_, flags), (_, dimensions), (_, name), (kind, values) = parts
    if flags[0 if order == "<" else 3] not in NUMERIC or kind not in NUMBERS:
        return "", None
    shape = np.frombuffer(dimensions, f"{order}i4").tolist()
    numbers = np.frombuffer(values, np.dtype(f"{order}{NUMBERS[kind]}"))
    if min(shape, default=-1) < 0 or math.prod(shape) != len(numbers):
        raise UserError(f"its array has the shape {shape} and {len(numbers)} values")
    return bytes(name).decode(), numbers.reshape(shape, order="F")
