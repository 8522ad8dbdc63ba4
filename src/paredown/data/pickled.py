"""Pickles of plain data and arrays of numbers, as CIFAR's published batches are, read without unpickling them.

The opcodes are followed one by one; those that build anything but text, numbers, lists, dicts and tuples are refused.
Nothing that an array's pickle names is called: the array is made from its checked type, shape and bytes.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**28  # bytes of a file; CIFAR-100's training images have 2 ** 27.2
MOST = 2_000_000  # opcodes; CIFAR-100's training images take a tenth
NUMBERS = re.compile(r"[ui][1248]")
ORDERS = ("|", "<", ">", "=")
KNOWN = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy._core.multiarray _reconstruct": "_reconstruct",
}
MARK = object()


class NotPlain(ValueError):
    """The reason why a pickle is not read."""


@dataclass
class _Callable:
    """One of KNOWN, by its name: never called."""

    name: str


@dataclass
class _Type:
    """A numpy dtype in the making: its letters, and with BUILD its byte order."""

    letters: str
    order: str = "|"


@dataclass
class _Array:
    """An array in the making: empty until BUILD brings its shape, type and bytes."""

    values: NDArray[Any] | None = None


def read(path: Path) -> dict[str, Any]:
    """Return the dict that `path` holds. Raise ValueError, or OSError, for a file that holds anything else."""
    if path.stat().st_size > LARGEST:
        raise NotPlain(f"it has {path.stat().st_size:,} bytes, more than {LARGEST:,}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = _Machine().run(mapped)
    if not isinstance(found, dict):
        raise NotPlain(f"it holds a {type(found).__name__}, not a dict")
    return {_text(key): value.values if isinstance(value, _Array) else value for key, value in found.items()}


class _Machine:
    """The stack and the memo of the opcodes read so far."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, source: Any) -> Any:
        """Follow the opcodes of `source`, a file or alike, and return what they leave."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(source)):
            if opcode.name == "STOP":
                return self._pop()
            if number == MOST:
                raise NotPlain(f"it has more than {MOST:,} opcodes")
            if opcode.name in PUSHED:
                self.stack.append(argument)
            elif (step := STEPS.get(opcode.name)) is not None:
                step(self, argument)
            else:
                raise NotPlain(f"it has the opcode {opcode.name}")
        raise NotPlain("it has no end")

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise NotPlain("it takes from an empty stack")
        return self.stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self.stack.append(value)
        return value

    def _since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                found, self.stack[index:] = self.stack[index + 1 :], []
                return found
        raise NotPlain("it has no mark")

    def mark(self, _: Any) -> None:
        """Begin a list of values of unknown length."""
        self.stack.append(MARK)

    def constant(self, make: Callable[[], Any]) -> None:
        """Push what `make` returns."""
        self.stack.append(make())

    def put(self, number: int | None) -> None:
        """Remember the last value, by default under the next number."""
        self.memo[len(self.memo) if number is None else number] = self._top()

    def get(self, number: int) -> None:
        """Push a remembered value."""
        if number not in self.memo:
            raise NotPlain("it asks for a value that it did not keep")
        self.stack.append(self.memo[number])

    def tuple_of(self, count: int | None) -> None:
        """Pack the last `count` values, or those since the mark."""
        values = self._since_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def list_of(self, _: Any) -> None:
        """Pack the values since the mark into a list."""
        self.stack.append(self._since_mark())

    def dict_of(self, _: Any) -> None:
        """Pack the pairs since the mark into a dict."""
        pairs = self._since_mark()
        self.stack.append({})
        self._set(pairs)

    def append(self, many: bool) -> None:
        """Append the last value, or those since the mark, to the list before."""
        values = self._since_mark() if many else [self._pop()]
        target = self._top()
        if not isinstance(target, list):
            raise NotPlain(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def set_items(self, many: bool) -> None:
        """Set the last pair, or those since the mark, in the dict before."""
        self._set(self._since_mark() if many else [self._pop(), self._pop()][::-1])

    def _set(self, pairs: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(pairs) % 2:
            raise NotPlain(f"it sets items of a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_text(key)] = value

    def name(self, dotted: str | None) -> None:
        """Push the name of a callable: `module name`, or the last two values."""
        if dotted is None:
            attribute, module = self._pop(), self._pop()
            dotted = f"{module} {attribute}" if isinstance(module, str) and isinstance(attribute, str) else "?"
        if dotted not in KNOWN:
            raise NotPlain(f"it calls {'.'.join(dotted.split())}")
        self.stack.append(_Callable(KNOWN[dotted]))

    def reduce(self, _: Any) -> None:
        """Begin an array or its type, in the place of a call."""
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, _Callable) or not isinstance(arguments, tuple) or not arguments:
            raise NotPlain("it calls what is no function of an array's")
        if called.name == "dtype" and isinstance(arguments[0], str) and NUMBERS.fullmatch(arguments[0]):
            self.stack.append(_Type(arguments[0]))
        elif called.name == "_reconstruct" and arguments[0] == _Callable("ndarray"):
            self.stack.append(_Array())
        else:
            raise NotPlain(f"it holds an array of something else than integers, by {called.name}")

    def build(self, _: Any) -> None:
        """Complete an array or its type."""
        state, target = self._pop(), self._top()
        if not isinstance(state, tuple) or len(state) < 5:
            raise NotPlain("it builds from what is no state of an array")
        plain = isinstance(state[1], str) and state[1] in ORDERS and state[2:5] == (None, None, None)
        if isinstance(target, _Type) and plain:
            target.order = state[1]
        elif isinstance(target, _Array) and target.values is None:
            target.values = _array(*state[1:5])
        else:
            raise NotPlain(f"it builds a {type(target).__name__}")


def _array(shape: Any, kind: Any, columns_first: Any, raw: Any) -> NDArray[Any]:
    """Return the array of `raw` bytes. Raise NotPlain unless its type is of integers, and shape and bytes agree."""
    if isinstance(raw, str):  # as Python 2 wrote bytes
        raw = raw.encode("latin1")
    sizes = isinstance(shape, tuple) and len(shape) <= 4 and all(type(size) is int and size >= 0 for size in shape)
    if not sizes or not isinstance(kind, _Type) or not isinstance(raw, bytes):
        raise NotPlain("it holds an array of something else than integers")
    dtype = np.dtype(kind.order + kind.letters)
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise NotPlain(f"it holds {len(raw):,} bytes for an array of {shape}")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if columns_first else "C")


def _text(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("latin1")
    if not isinstance(key, str):
        raise NotPlain(f"it has a key of {type(key).__name__}")
    return key


PUSHED = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINBYTES"}
PUSHED |= {"SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "UNICODE"}
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.constant(lambda: None),
    "NEWTRUE": lambda machine, _: machine.constant(lambda: True),
    "NEWFALSE": lambda machine, _: machine.constant(lambda: False),
    "EMPTY_LIST": lambda machine, _: machine.constant(list),
    "EMPTY_DICT": lambda machine, _: machine.constant(dict),
    "EMPTY_TUPLE": lambda machine, _: machine.constant(tuple),
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "DICT": _Machine.dict_of,
    "APPEND": lambda machine, _: machine.append(False),
    "APPENDS": lambda machine, _: machine.append(True),
    "SETITEM": lambda machine, _: machine.set_items(False),
    "SETITEMS": lambda machine, _: machine.set_items(True),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
