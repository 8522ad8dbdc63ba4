"""The channel labels of what functions and tensor methods compute, by their names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.nn import functional

from paredown.graph.labels import Labels, distinct, signed, tensors_in, varies
from paredown.graph.trace import described, operator_name, shape_of

POOL_FUNCTIONS: dict[Any, int] = {
    **{getattr(functional, name): 2 for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "interpolate")},
    **{functional.adaptive_max_pool2d: 2, torch.max_pool2d: 2, functional.max_pool1d: 1, functional.avg_pool1d: 1},
    **{functional.adaptive_avg_pool1d: 1, torch.adaptive_avg_pool1d: 1, torch.max_pool1d: 1, torch.avg_pool1d: 1},
}
# functions and tensor methods by name, without the "_" of in-place variants
ELEMENTWISE_NAMES = """
    abs add celu clamp clamp_max clamp_min div elu exp expm1 float double gelu hardshrink hardsigmoid hardswish hardtanh
    iadd imul isub itruediv leaky_relu log1p mish mul multiply neg pos pow relu relu6 selu sigmoid sign silu sin
    softplus softshrink sqrt square sub subtract tanh threshold truediv true_divide
"""
SAME_NAMES = "alpha_dropout clone contiguous detach dropout dropout2d feature_dropout stochastic_depth zeros_like"
MOVING_NAMES = """
    cat concat concatenate expand_as flatten movedim permute squeeze stack swapaxes swapdims t transpose unsqueeze
"""
ELEMENTWISE, SAME, MOVES = (frozenset(names.split()) for names in (ELEMENTWISE_NAMES, SAME_NAMES, MOVING_NAMES))
PRODUCTS, SUMS = {"mul", "imul", "multiply"}, {"add", "iadd", "sub", "isub", "subtract", "maximum", "minimum"}
RESHAPES = {"view", "reshape", "unflatten", "expand"}
READS = {"size", "dim", "ndimension", "getattr", "numel"}
REDUCTIONS = {"mean", "sum", "amax", "amin"}
PARTS = {"chunk", "split", "tensor_split"}


class FunctionLabels(fx.Interpreter):
    """The part of a run on labels that calls functions and methods of tensors."""

    labels: Labels

    def function(self, n: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the labels of what the function or method called by `n` computes; None for what is not followed."""
        name, x = operator_name(n).rstrip("_"), args[0] if args else None
        if name in READS or (n.target is operator.getitem and not isinstance(x, Tensor)):
            return super().run_node(n)
        if not isinstance(x, Tensor):
            return super().run_node(n) if name in MOVES else None
        if n.target in POOL_FUNCTIONS and shape_of(n):
            return self.labels.pooled(x, POOL_FUNCTIONS[n.target], shape_of(n))
        if name in ELEMENTWISE | SUMS:
            return self._elementwise(n, name, args, kwargs)
        handlers: dict[str, Callable[[fx.Node, Tensor], Any]] = {
            "getitem": self._sliced,
            **dict.fromkeys(SAME, lambda _, x: x),
            **dict.fromkeys(REDUCTIONS, self._reduced),
            **dict.fromkeys(PARTS, self._parts),
            **dict.fromkeys(RESHAPES, self._reshape),
            **dict.fromkeys(MOVES, lambda n, _: super(FunctionLabels, self).run_node(n)),
        }
        return handlers[name](n, x) if name in handlers else None

    def _elementwise(self, n: fx.Node, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
        others = tensors_in((args[1:], kwargs))
        if others and all(other.numel() > 1 for other in others):
            if len(args) != 2 or kwargs or name not in PRODUCTS | SUMS:
                return None
            return self._combined(n, name, args[0], args[1])
        if any(isinstance(node, fx.Node) and not shape_of(node) for node in (*n.args[1:], *n.kwargs.values())):
            return None  # a number that may follow from the width
        if others:  # a tensor of one value, whatever it is
            return signed(args[0], name in PRODUCTS)
        zero, rest = torch.zeros(1), args[1:]
        target: Any = n.target
        value = getattr(zero, target)(*rest, **kwargs) if n.op == "call_method" else target(zero, *rest, **kwargs)
        return signed(args[0], bool(value.item() == 0))

    def _combined(self, n: fx.Node, name: str, first: Tensor, second: Tensor) -> Tensor:
        """Join what is added or multiplied. A map that acts on all channels alike stays, and joins none of them."""
        wide = torch.broadcast_shapes(first.shape, second.shape)
        tensors = [tensor[(None,) * (len(wide) - tensor.dim())] for tensor in (first, second)]
        for small, large in (tensors, tensors[::-1]):
            spread = [d for d in range(len(wide)) if small.shape[d] == 1 < large.shape[d] and varies(large, d)]
            if spread:
                self.labels.fix(small)
                return large.expand(wide) if name in PRODUCTS else -large.abs().expand(wide)
        a, b = (tensor.expand(wide) for tensor in tensors)
        if any(node.op == "get_attr" for node in n.all_input_nodes):
            self.labels.fix(a if bool(a.any()) else b, described(n))
        self.labels.join(a, b)
        if name in SUMS:
            self.labels.summed += [distinct(a), distinct(b)]
        zero = (a >= 0) | (b >= 0) if name in PRODUCTS else (a >= 0) & (b >= 0)
        return a if bool((zero == (a >= 0)).all()) else torch.where(zero, a.abs(), -a.abs())

    def _reduced(self, n: fx.Node, x: Tensor) -> Tensor | None:
        found = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
        keep = n.args[2] if len(n.args) > 2 else n.kwargs.get("keepdim", False)
        dims = [found] if isinstance(found, int) else list(found or ())  # type: ignore[arg-type]
        if not dims or not all(isinstance(dim, int) for dim in dims):
            return None
        for dim in sorted((int(dim) % x.dim() for dim in dims), reverse=True):
            if varies(x, dim):  # over channels: it depends on how many there are
                return None
            first = x.select(dim, 0)
            x = first.unsqueeze(dim) if keep else first
        return x

    def _reshape(self, n: fx.Node, x: Tensor) -> Tensor:
        """Reshape, and join the channels along each dimension whose size is written as a number: it stays so."""
        view = n.op == "call_method" and n.target == "view"  # labels have other strides than the activations
        result: Tensor = x.reshape(*self.fetch_args_kwargs_from_env(n)[0][1:]) if view else super().run_node(n)
        written = n.args[1:] or tuple(n.kwargs.values())
        offset = 0
        if operator_name(n) == "unflatten":
            dim = n.args[1] if len(n.args) > 1 else n.kwargs["dim"]
            written, offset = n.args[2:] or (n.kwargs["sizes"],), int(dim) % x.dim()  # type: ignore[arg-type]
        sizes = written[0] if len(written) == 1 and isinstance(written[0], tuple | list) else written
        if len(sizes) == 1 and isinstance(sizes[0], fx.Node) and result.dim() > 1:
            sizes = ()  # the size of another tensor
        return self.labels.keep_sizes(result, {offset + at: s for at, s in enumerate(sizes) if isinstance(s, int)})

    def _parts(self, n: fx.Node, x: Tensor) -> Sequence[Tensor] | None:
        parts: Sequence[Tensor] = super().run_node(n)
        dim = n.args[2] if len(n.args) > 2 else n.kwargs.get("dim", 0)
        if not isinstance(dim, int):
            return None
        if varies(x, dim):
            equal = len({part.shape for part in parts}) == 1
            given = n.args[1] if len(n.args) > 1 else next(iter(n.kwargs.values()))
            exact = given == len(parts) if operator_name(n) == "chunk" else self._fraction(given, len(parts))
            if not equal or not exact:
                return None
            for part in parts[1:]:  # equal parts stay equal
                self.labels.join(parts[0], part)
        return parts

    def _sliced(self, n: fx.Node, x: Tensor) -> Tensor | None:
        """Take a part of a tensor. Along channels, what is before a bound that is written as a number stays."""
        given = self.fetch_args_kwargs_from_env(n)[0][1], n.args[1]
        index, nodes = (part if isinstance(part, tuple) else (part,) for part in given)
        if any(not isinstance(part, slice | int | type(None) | type(...)) for part in index):
            return None
        dims = _dimensions(index, x.dim())
        for part, node, dim in zip(index, nodes, dims, strict=True):
            if dim is None or not varies(x, dim) or part == slice(None):
                continue
            if not isinstance(part, slice) or part.step not in (None, 1):
                return None
            if not all(self._kept_bound(n, x, dim, bound) for bound in (node.start, node.stop)):
                return None
        return x[cast(Any, index)]

    def _kept_bound(self, n: fx.Node, x: Tensor, dim: int, bound: Any) -> bool:
        """Let what a slice along `dim` takes stay the same; return whether that can be said of its `bound`."""
        if isinstance(bound, int) and bound:
            kept = x.narrow(dim, 0, min(bound, x.shape[dim])) if bound > 0 else x.narrow(dim, bound, -bound)
            self.labels.fix(kept, described(n))
        if not isinstance(bound, fx.Node):
            return True
        count = x.shape[dim] // max(1, self.env[bound])
        if not self._fraction(bound, count) or x.shape[dim] % count:
            return False
        for other in x.chunk(count, dim)[1:]:
            self.labels.join(x.chunk(count, dim)[0], other)
        return True

    def _fraction(self, node: Any, parts: int) -> bool:
        """Return whether `node` computes a size divided by the number `parts`."""
        return isinstance(node, fx.Node) and node.target is operator.floordiv and bool(node.args[1] == parts)


def _dimensions(index: Sequence[Any], rank: int) -> list[int | None]:
    """Return the dimension that each part of an index is of, None for those of none."""
    used = sum(isinstance(part, slice | int) for part in index)
    found: list[int | None] = []
    dim = 0
    for part in index:
        found.append(None if part is None or part is ... else dim)
        dim += (rank - used) if part is ... else part is not None
    return found
