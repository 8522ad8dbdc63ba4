"""A digest of what a live module computes: its classes, functions, attributes and whatever these refer to, so that two
networks of one digest may share results."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from paredown.core.keys import digest

ONCE = "once-"  # what a digest begins with that no other module has
MOST = 200_000  # values that are looked at
KNOWN = frozenset({"torch", "numpy", "builtins"}) | (sys.stdlib_module_names - {"__main__"})  # are what they are called
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch._ops.OpOverload)
# of a module: the mode that it is in, and what is described by itself
ASIDE = ("training", "_parameters", "_buffers", "_modules", "_graph")
OF_CLASSES = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "_abc_impl")
log = logging.getLogger("paredown")


class Undescribed(Exception):
    """The reason why a value has no description that is equal for equal values alone."""


def description(module: nn.Module) -> str:
    """Return a digest of `module` but for the values of its weights; one that nothing else has where some part of it
    cannot be described."""
    try:
        return digest(_Walk({id(tensor) for tensor in module.state_dict(keep_vars=True).values()}).of(module))
    except Exception as error:  # of a part's __reduce_ex__, __getstate__ or repr: whatever it raises
        log.info("no stored stage of this network is reused: %s: %s", type(error).__name__, error)
        return f"{ONCE}{uuid.uuid4().hex}"


@dataclass
class _Walk:
    """A walk through a module whose `weights` have these ids. A value that was met before is its number."""

    weights: set[int]
    seen: dict[int, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)  # an id is of an object that lives

    def of(self, value: Any) -> Any:
        """Return `value` as plain data. Raise Undescribed where that cannot be."""
        if (isinstance(value, PLAIN) and type(value) in PLAIN) or isinstance(value, TORCH):
            return [type(value).__name__, repr(value)]
        if id(value) in self.seen:
            return self.seen[id(value)]
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        if len(self.kept) > MOST:
            raise Undescribed(f"it refers to more than {MOST} values")
        return [type(value).__name__, *self._parts(value)]

    def _parts(self, value: Any) -> Iterator[Any]:
        if isinstance(value, Tensor):
            yield from self._tensor(value)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, CodeType):
            yield from self._code(value)
        elif isinstance(value, ModuleType):
            yield [value.__name__, None if _known(value.__name__) else _text(getattr(value, "__file__", None))]
        else:
            yield from self._other(value)

    def _other(self, value: Any) -> Iterator[Any]:  # noqa: PLR0912
        """Describe containers, what stands for a function, and objects by the parts that a copy of them is made of."""
        if isinstance(value, list | tuple | dict | set | frozenset) and not _known_type(value):
            yield self.of(type(value))
        if isinstance(value, list | tuple):
            yield [self.of(item) for item in value]
        elif isinstance(value, set | frozenset):
            yield sorted(digest(_Walk(self.weights).of(item)) for item in value)
        elif isinstance(value, dict):
            yield [[self.of(name), self.of(item)] for name, item in value.items()]
        elif isinstance(value, BuiltinFunctionType):
            inside = value.__self__
            yield [value.__qualname__, self.of(inside)]
        elif isinstance(value, MethodType | staticmethod | classmethod):
            yield [self.of(value.__func__), self.of(getattr(value, "__self__", None))]
        elif isinstance(value, property):
            yield [self.of(value.fget), self.of(value.fset)]
        elif isinstance(value, functools.cached_property):
            yield self.of(value.func)
        elif isinstance(value, functools._lru_cache_wrapper):
            yield self.of(value.__wrapped__)
        elif isinstance(value, logging.Logger):
            yield value.name
        elif isinstance(value, re.Pattern):
            yield [repr(value.pattern), value.flags]
        elif _known(getattr(value, "__module__", None) or getattr(type(value), "__module__", None)) and hasattr(
            value, "__qualname__"
        ):
            yield value.__qualname__  # functions and slots of C
        else:
            yield from self._object(value)

    def _object(self, value: Any) -> Iterator[Any]:
        reduced = value.__reduce_ex__(4)
        yield self.of(type(value))
        if isinstance(reduced, str):
            yield reduced
            return
        yield [self.of(part if number < 3 or part is None else list(part)) for number, part in enumerate(reduced)]
        yield self.of(vars(value)) if hasattr(value, "__dict__") else None

    def _tensor(self, tensor: Tensor) -> Iterator[Any]:
        """Describe a weight by its shape, another tensor by its values."""
        yield [list(tensor.shape), str(tensor.dtype), tensor.requires_grad]
        if id(tensor) not in self.weights:
            values = tensor.detach().cpu().contiguous().reshape(-1)
            yield hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()

    def _module(self, module: nn.Module) -> Iterator[Any]:
        yield self.of(type(module))
        yield module.extra_repr()
        if isinstance(module, fx.GraphModule):
            yield self.of(type(module).forward)
        for name, value in sorted(vars(module).items()):
            if name not in ASIDE:  # hooks have numbers of this process
                yield [name, self.of(list(value.values()) if "hooks" in name and hasattr(value, "values") else value)]
        for group in (module._parameters, module._buffers, module._modules):
            yield [[name, self.of(value)] for name, value in group.items()]

    def _class(self, kind: type) -> Iterator[Any]:
        yield f"{kind.__module__}.{kind.__qualname__}" if _known(kind.__module__) else kind.__qualname__
        if not _known(kind.__module__):
            yield _text(getattr(sys.modules.get(kind.__module__), "__file__", None), kind.__module__)
            yield [self.of(base) for base in kind.__bases__]
            yield [[name, self.of(value)] for name, value in sorted(vars(kind).items()) if _deciding(name, value)]

    def _function(self, function: FunctionType) -> Iterator[Any]:
        yield function.__qualname__
        cells = [_content(cell) for cell in function.__closure__ or ()]
        yield [self.of([function.__defaults__, function.__kwdefaults__, cells])]
        home = function.__globals__.get("__name__")
        if _known(home):
            yield home
            return
        yield self.of(function.__code__)
        used = [name for name in sorted(_names(function.__code__)) if name in function.__globals__]
        yield [[name, self.of(function.__globals__[name])] for name in used]

    def _code(self, code: CodeType) -> Iterator[Any]:
        yield [code.co_code.hex(), list(code.co_names), list(code.co_varnames), list(code.co_freevars)]
        yield [self.of(constant) for constant in code.co_consts]


def _known(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in KNOWN


def _known_type(value: Any) -> bool:
    return _known(type(value).__module__)


def _deciding(name: str, value: Any) -> bool:
    """Tell whether an attribute of a class can change what it computes: not its text, nor the slots of C."""
    return name not in OF_CLASSES and type(value).__name__ not in ("getset_descriptor", "member_descriptor")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty still
        return None


def _names(code: CodeType) -> set[str]:
    """Return the names that `code`, and the functions inside it, look up among globals and attributes."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inside))


def _text(file: str | None, module: str | None = None) -> str | None:
    """Return the digest of a module's text; None for a notebook or the script itself, whose other lines say what is
    done with the network."""
    if file is None or module == "__main__" or not Path(file).is_file():
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
