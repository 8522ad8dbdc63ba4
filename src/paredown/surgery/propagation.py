"""NISP: neuron importances, scored at the last layer and propagated down through absolute weights (Yu et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, fx, nn
from torch.nn import functional

from paredown.core.errors import UserError
from paredown.graph.channels import Group, Member
from paredown.graph.function_labels import ELEMENTWISE, PRODUCTS
from paredown.graph.layer_labels import ACTIVATIONS
from paredown.graph.trace import Shape, is_identity, module_of, operator_name, trace
from paredown.layers.narrow import NORMS
from paredown.surgery.importance import Scores

REACH = 0.9  # of the series of paths' convergence radius
SMALL = 1e-150  # the importances' sum at the top: they grow by each layer's weights, by 1e250 over 150 layers
MAX_POOLS = ("max_pool2d", "adaptive_max_pool2d")


def infinite_selection(features: Tensor, alpha: float = 0.5) -> Tensor:
    """Compute the importance (d,) of each of `features` (N, d), in float64: Inf-FS (Roffo et al. 2015), the sum over
    paths of all lengths of `alpha` max(sigma_i, sigma_j) + (1 - alpha) (1 - |spearman_ij|). A constant feature's rank
    correlation is taken for 0."""
    values = features.double().cpu()
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=0)).T
    with np.errstate(all="ignore"):
        spearman = torch.corrcoef(ranks).reshape(len(ranks), -1).nan_to_num(0.0).abs()
    spread = values.std(0)
    return path_energies(alpha * torch.maximum(spread[:, None], spread) + (1 - alpha) * (1 - spearman))


def path_energies(edges: Tensor) -> Tensor:
    """Compute the row sums of (I - r A)^-1 - I of symmetric `edges` A (d, d), r = 0.9 over its largest eigenvalue."""
    size, largest = torch.eye(len(edges), dtype=edges.dtype), torch.linalg.eigvalsh(edges).abs().max()
    if not largest > 0:
        return edges.new_zeros(len(edges))
    ones = edges.new_ones(len(edges))
    return torch.linalg.solve(size - REACH / largest * edges, ones) - ones


def propagated(
    module: nn.Module, input_shape: Shape, groups: Sequence[Group], top: Tensor, widths: Mapping[str, int]
) -> Scores:
    """Return the importance of each channel of `groups`, given those of the inputs of the last linear layer, `top`
    (d,): s_in = |W|^T s_out through linear layers and convolutions; activations and batch norms pass, pooling spreads.

    What leaves only `widths` in a group is without importance for all below it. A group that several layers write is
    ranked in a first pass in which nothing is.
    """
    graph = Absolute(module)
    top = top.double() * (SMALL / float(top.sum().clamp(min=1e-30)))  # float32 has no number so small
    several = {group.name for group in groups if len(written(module, group)) > 1}
    maps = graph.pull(input_shape, top, {})
    scores = {group.name: _score(module, group, maps) for group in groups}

    def passing(layer: str, gradient: Tensor) -> Tensor:
        for group in groups:
            for member in (m for m in written(module, group) if m.layer == layer):
                if group.name not in several:
                    scores[group.name] = _sums(member, gradient)
                gone = scores[group.name].argsort(stable=True)[: group.size - widths.get(group.name, group.size)]
                gradient = gradient.index_fill(1, member.table[gone].flatten(), 0.0)
        return gradient

    graph.pull(input_shape, top, dict.fromkeys(maps, passing))
    for group in groups:
        total = scores[group.name].sum()
        scores[group.name] = scores[group.name] / total if total > 0 else scores[group.name]
    return scores


def written(module: nn.Module, group: Group) -> list[Member]:
    """Return the convolutions and linear layers whose outputs the channels of `group` are."""
    out = (member for member in group.members if member.axis == "out")
    return [m for m in out if isinstance(module.get_submodule(m.layer), nn.Conv2d | nn.Linear)]


def last_linear(module: nn.Module) -> str:
    """Return the name of the last linear layer that `module` calls. Raise UserError where there is none."""
    graph = trace(module)
    calls = [str(n.target) for n in graph.graph.nodes if isinstance(module_of(n, graph), nn.Linear)]
    if not calls:
        raise UserError(f"nisp scores the inputs of the last linear layer: {type(module).__name__} has none")
    return calls[-1]


def _score(module: nn.Module, group: Group, maps: Mapping[str, Tensor]) -> Tensor:
    sums = [_sums(member, maps[member.layer]) for member in written(module, group) if member.layer in maps]
    return torch.stack(sums).sum(0) if sums else torch.zeros(group.size, dtype=torch.float64)


def _sums(member: Member, gradient: Tensor) -> Tensor:
    per_channel = gradient.movedim(1, 0).flatten(1).sum(1)
    return per_channel[member.table].sum(1)


class Absolute(fx.Interpreter):
    """The network as a linear map: absolute weights, no biases, activations and batch norms the identity, maximum
    pools averages, gates of products 1. Its vector-Jacobian products propagate importances."""

    def __init__(self, module: nn.Module) -> None:
        self.last = last_linear(module)
        plain = copy.deepcopy(module).cpu().double().eval()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.requires_grad_(False)
                parameter.copy_(parameter.abs() if parameter.dim() > 1 else torch.zeros_like(parameter))
        super().__init__(trace(plain))
        self.outputs: dict[str, Tensor] = {}
        self.passing: Mapping[str, Any] = {}

    def pull(self, input_shape: Shape, top: Tensor, passing: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return `top` (d,), of the inputs of the last linear layer, propagated to the output of each convolution and
        linear layer below, (1, n, ...) by its name, and to the image, "". `passing(layer, map)` by layer changes what
        goes on below it."""
        self.outputs, self.passing, self.pulled = {}, passing, dict[str, Tensor]()
        image = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            self.run(image)
            (self.pulled[""],) = torch.autograd.grad(self.features, image, top.double().reshape_as(self.features))
        return self.pulled

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node of the linear map."""
        layer, sources = module_of(n, self.module), n.all_input_nodes
        name = operator_name(n).strip("_") if n.op in ("call_function", "call_method") else ""
        if isinstance(layer, NORMS) or type(layer) in ACTIVATIONS or (layer and is_identity(n, self.module)):
            return self.env[sources[0]]
        if name in PRODUCTS and len(sources) == 2:  # the map, not its gate
            return max((self.env[source] for source in sources), key=torch.Tensor.numel)
        if name in ELEMENTWISE and len(sources) == 1:
            return self.env[sources[0]]
        if isinstance(layer, nn.MaxPool2d) or name in MAX_POOLS:
            return self._averaged(n, layer, name)
        if n.target == self.last and n.op == "call_module":
            self.features = self.env[sources[0]]
        result = super().run_node(n)
        if isinstance(layer, nn.Conv2d | nn.Linear) and n.target != self.last and result.requires_grad:
            result.register_hook(lambda gradient, layer=str(n.target): self._pass(layer, gradient))
        return result

    def _averaged(self, n: fx.Node, layer: Any, name: str) -> Tensor:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if name == "adaptive_max_pool2d":
            return functional.adaptive_avg_pool2d(args[0], *args[1:2])
        if layer is not None:
            return functional.avg_pool2d(args[0], layer.kernel_size, layer.stride, layer.padding)
        keys = {key: value for key, value in kwargs.items() if key in ("kernel_size", "stride", "padding")}
        return functional.avg_pool2d(*args[:4], **keys)

    def _pass(self, layer: str, gradient: Tensor) -> Tensor:
        self.pulled[layer] = self.pulled.get(layer, 0) + gradient
        return self.passing[layer](layer, gradient) if layer in self.passing else gradient
