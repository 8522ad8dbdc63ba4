"""torch.fx traces of networks, and predicates on their nodes."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.utils import parametrize

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError, named_reason
from paredown.layers.narrow import NORMS
from paredown.layers.padded import PaddedConv2d
from paredown.layers.shortcut import LeafModule

Shape = tuple[int, ...]
POOLS = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
ELEMENTWISE = nn.ReLU | nn.Hardtanh | nn.SiLU | nn.Sigmoid | nn.Hardswish | nn.Hardsigmoid | nn.GELU
IDENTITIES = nn.Dropout | nn.Identity  # in eval mode
RELU_FUNCTIONS: tuple[Any, ...] = (torch.relu, torch.relu_, functional.relu, functional.relu_)
RELU_METHODS = ("relu", "relu_")
ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)
ELEMENTWISE_FUNCTIONS: tuple[Any, ...] = (
    *(operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.relu, torch.sigmoid),
    *(functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.hardtanh),
)


COMPARISONS: tuple[Any, ...] = (operator.eq, operator.ge, operator.gt, operator.le, operator.lt, operator.ne)
OF_ASSERTIONS = (*COMPARISONS, getattr, operator.getitem, "size", "dim")
NORMS_IN_FIT = NORMS | nn.SyncBatchNorm  # what a fit with trainer.sync_batchnorm makes of them
PLAIN = (PaddedConv2d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
LEAVES = CompressedLayer | LeafModule | PaddedConv2d


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class _PartialTracer(_Tracer):
    """Records a submodule that cannot be traced as one node, and so what subclasses a plain layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_plain(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        before, stack = list(self.graph.nodes), list(self.module_stack.items())
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever its code raises on a proxy
            for node in reversed(list(self.graph.nodes)[len(before) :]):
                self.graph.erase_node(node)
            self.module_stack.clear()  # fx leaves there what it failed in, which fails all modules around it
            self.module_stack.update(stack)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def trace(module: nn.Module, *, whole: bool = True) -> fx.GraphModule:
    """Trace `module` symbolically; compressed layers, `PaddedConv2d`s and `LeafModule`s are single nodes.

    The graph module holds the submodules of `module` itself, not copies; but a subclass of a batch norm that computes
    an activation too becomes a plain norm of the same tensors, followed by the activation. Raise UserError where
    torch.fx cannot follow the forward pass (data-dependent branches, loops, lengths of tensors); unless the `whole` is
    needed, the innermost submodule with such a place becomes a single node instead.
    """
    try:
        graph = (_Tracer() if whole else _PartialTracer()).trace(module)
        _drop_assertions(graph)
        return _with_norms(fx.GraphModule(module, graph), module)
    except Exception as error:  # a proxy in the place of a tensor makes a network's code raise anything
        raise UserError(f"torch.fx cannot trace {type(module).__name__}: {named_reason(error)}") from error


def _drop_assertions(graph: fx.Graph) -> None:
    """Remove assertions, and what is computed for them alone, which would be further users of what they look at."""
    waiting = [node for node in graph.nodes if node.target is torch._assert]
    while waiting:
        node = waiting.pop()
        if not node.users:
            sources = node.all_input_nodes
            graph.erase_node(node)
            waiting += [source for source in sources if source.target in OF_ASSERTIONS]


def _with_norms(graph: fx.GraphModule, module: nn.Module) -> fx.GraphModule:
    """Return `graph` with each call of `functional.batch_norm` on the tensors of a batch norm of `module` as a call of
    a plain twin of that layer."""
    for node in list(graph.graph.nodes):
        name = _norm_of(node, module) if node.target is functional.batch_norm else None
        parent = (name or "").rpartition(".")[0]
        # the parent is one of the graph alone, unless it is also a node by itself
        if name is None or graph.get_submodule(parent) is module.get_submodule(parent):
            continue
        twin = copy.copy(module.get_submodule(name))
        twin.__class__ = next(kind for kind in (nn.BatchNorm1d, nn.BatchNorm2d) if isinstance(twin, kind))
        graph.set_submodule(name, twin)
        images, *tensors = node.all_input_nodes
        node.op, node.target, node.args, node.kwargs = "call_module", name, (images,), {}
        for tensor in tensors:
            if not tensor.users:
                graph.graph.erase_node(tensor)
    graph.recompile()
    return graph


def _norm_of(node: fx.Node, module: nn.Module) -> str | None:
    """Return the name of the batch norm of `module` whose plain form a call of `functional.batch_norm` computes, None
    where there is none."""
    bound = inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    tensors = {name: given[name] for name in ("running_mean", "running_var", "weight", "bias")}
    first = tensors["running_mean"]
    if not isinstance(first, fx.Node) or first.op != "get_attr":
        return None
    name = str(first.target).rpartition(".")[0]
    layer = module.get_submodule(name)
    expected = {
        part: f"{name}.{part}".lstrip(".") if getattr(layer, part, None) is not None else None for part in tensors
    }
    found = {part: str(value.target) if isinstance(value, fx.Node) else value for part, value in tensors.items()}
    if not isinstance(layer, NORMS) or found != expected:
        return None
    return name or None if (given["eps"], given["training"]) == (layer.eps, layer.training) else None


def is_plain(layer: nn.Module) -> bool:
    """Return whether `layer` computes what torch's convolution, linear layer or batch norm does from parameters."""
    plain = next((kind for kind in PLAIN if isinstance(layer, kind)), None)
    if plain is None or parametrize.is_parametrized(layer) or type(layer).forward is not plain.forward:
        return False
    if getattr(type(layer), "_conv_forward", None) is not getattr(plain, "_conv_forward", None):
        return False
    affine = layer.affine if isinstance(layer, NORMS) else True
    return not affine or isinstance(layer._parameters.get("weight"), nn.Parameter)


def propagate_shapes(graph: fx.GraphModule, input_shape: Shape) -> None:
    """Record the shape of every node for one image of `input_shape` (channels, height, width); see `shape_of`."""
    like = next((tensor for tensor in graph.parameters()), torch.empty(0))
    with torch.no_grad():
        ShapeProp(graph).propagate(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))


def shape_of(node: fx.Node) -> Shape:
    """Return the output shape of `node` for one image, () where the output is not a tensor."""
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else ()


def module_of(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """Return the submodule of `root` that `node` calls, None for any other node."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the node that uses the output of `node`, None unless there is exactly one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def operator_name(node: fx.Node) -> str:
    """Return the name of the function, method or submodule that `node` calls."""
    return str(getattr(node.target, "__name__", node.target))


def is_relu(node: fx.Node, root: nn.Module) -> bool:
    """Return whether `node` is a ReLU: a module, a function or a tensor method."""
    if node.op == "call_function":
        return node.target in RELU_FUNCTIONS
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return type(module_of(node, root)) is nn.ReLU


def is_sum(node: fx.Node) -> bool:
    """Return whether `node` adds two tensors of equal shapes."""
    two = node.op == "call_function" and node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs
    return two and len({shape_of(arg) if isinstance(arg, fx.Node) else () for arg in node.args} | {shape_of(node)}) == 1


def is_elementwise(node: fx.Node, root: nn.Module) -> bool:
    """Return whether `node` computes every value of its output from the values at the same place of its inputs."""
    function = node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS
    return function or isinstance(module_of(node, root), ELEMENTWISE)


def is_identity(node: fx.Node, root: nn.Module) -> bool:
    """Return whether `node` returns its input in eval mode (dropout, stochastic depth)."""
    function = node.op == "call_function" and operator_name(node) == "stochastic_depth"
    return function or isinstance(module_of(node, root), IDENTITIES)


def described(n: fx.Node) -> str:
    """Name the layer and the operator of `n`."""
    if n.op == "call_module":
        module = n.graph.owning_module
        assert module is not None
        return f"{n.target} ({type(module.get_submodule(str(n.target))).__name__})"
    stack = n.meta.get("nn_module_stack") or {}
    inside = [str(path) for path, _ in stack.values() if path]
    return f"{inside[-1] if inside else 'the network'} ({operator_name(n)})"
