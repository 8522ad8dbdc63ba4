"""A network run on channel labels instead of images (torch.fx): which layers read and write which channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from paredown.graph.function_labels import FunctionLabels
from paredown.graph.labels import FIXED, Axis, Labels, tensors_in
from paredown.graph.layer_labels import LayerLabels
from paredown.graph.trace import Shape, described, operator_name, propagate_shapes, shape_of, trace


class Labelling(LayerLabels, FunctionLabels):
    """The run. `axes` are the labels (n,) on each axis of the layers that can be narrower, in the order of their calls;
    `labels` says which belong together, and what could not be followed."""

    def __init__(self, module: nn.Module, input_shape: Shape) -> None:
        graph = trace(module, whole=False)
        propagate_shapes(graph, input_shape)
        super().__init__(graph, garbage_collect_values=True)
        self.labels, self.axes = Labels(), dict[tuple[str, Axis], Tensor]()
        self.shared = set(_shared(graph, module))
        self.run(torch.zeros(()))

    def run_node(self, n: fx.Node) -> Any:
        """Return the labels of what `n` computes; of what is no tensor, its value."""
        if n.op == "placeholder":
            return torch.full(shape_of(n), FIXED) if shape_of(n) else (n.args[0] if n.args else None)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            for tensor in tensors_in((args, kwargs)):
                self.labels.fix(tensor)
            return args[0]
        if n.op == "get_attr" or not tensors_in((args, kwargs)):
            value = super().run_node(n)
            return _fixed(n) if tensors_in(value) else value
        found = self._followed(n, args, kwargs)
        return self._unfollowed(n, (args, kwargs)) if found is None else found

    def _followed(self, n: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the labels of what `n` computes from tensors; None for what is not followed."""
        if not n.users and operator_name(n).endswith("_"):  # what it changes in place is read later
            return None
        return self.layer(n, args, kwargs) if n.op == "call_module" else self.function(n, args, kwargs)

    def _unfollowed(self, n: fx.Node, values: Any) -> Any:
        for tensor in tensors_in(values):
            self.labels.fix(tensor, described(n))
        if n.op == "call_module" and any(True for _ in self.fetch_attr(str(n.target)).parameters()):
            self.labels.reasons.setdefault(described(n))  # its channels stay, whatever it reads
        return _fixed(n)


def _shared(graph: fx.GraphModule, module: nn.Module) -> Iterator[str]:
    """Find modules that have several names, whose parameters belong to another one too, or are used outside of it."""
    outside = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    every = list(module.named_modules(remove_duplicate=False))
    names = Counter(id(layer) for _, layer in every)
    owners = Counter(id(p) for layer in module.modules() for p in layer._parameters.values() if p is not None)
    for name, layer in every:
        held = {f"{name}.{key}": parameter for key, parameter in layer._parameters.items() if parameter is not None}
        if names[id(layer)] > 1 or held.keys() & outside or any(owners[id(p)] > 1 for p in held.values()):
            yield name


def _fixed(n: fx.Node) -> Any:
    """Return labels that stay, in the shapes of what `n` computes."""
    meta: Any = n.meta.get("tensor_meta")
    if hasattr(meta, "shape"):
        return torch.full((), FIXED).expand(meta.shape)
    if isinstance(meta, tuple | list):
        return tuple(torch.full((), FIXED).expand(part.shape) if hasattr(part, "shape") else None for part in meta)
    return torch.full((), FIXED)
