"""The operations that follow a layer in a traced network: a batch norm, as an affine map per channel, and a ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from paredown.graph.trace import is_relu, module_of, only_user, trace
from paredown.layers.narrow import NORMS


@dataclass(frozen=True)
class Site:
    """The eval-mode batch norm behind a convolution of n outputs, as y * `scale` (n,) + `shift` (n,), float64 on the
    CPU (1 and 0 without a batch norm), and whether a `relu` follows it."""

    scale: Tensor
    shift: Tensor
    relu: bool

    def after(self, outputs: Tensor) -> Tensor:
        """Apply the batch norm to the convolution's `outputs` (N, n), in float64."""
        return outputs.double() * self.scale + self.shift

    def before(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Convert an affine map (weight (n, p), bias (n,)) onto the batch norm's output into the map onto its input;
        zeros for channels with scale 0."""
        inverse = torch.where(self.scale == 0, 0, 1 / self.scale)
        return inverse[:, None] * weight, inverse * (bias - self.shift)


def sites(module: nn.Module, names: Sequence[str]) -> dict[str, Site]:
    """Return the sites of the convolutions `names`, in the order in which `module` calls them.

    A batch norm or ReLU belongs to a site only if nothing else uses its input; a convolution that is called more than
    once has neither. Raise UserError where torch.fx cannot trace `module`.
    """
    graph = trace(module)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in names:
            calls.setdefault(str(node.target), []).append(node)
    return {name: _site(module, name, nodes) for name, nodes in calls.items()}


def batch_norm_behind(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """Return the call of the batch norm that alone uses the output of `node`, None if there is none or if it keeps no
    running statistics, with which it is not affine."""
    user = only_user(node)
    norm = None if user is None else module_of(user, root)
    return user if isinstance(norm, NORMS) and norm.running_mean is not None else None


def _site(module: nn.Module, name: str, nodes: Sequence[fx.Node]) -> Site:
    weight = module.get_submodule(name).weight.detach()  # type: ignore[operator]
    scale, shift = torch.ones(len(weight), dtype=torch.float64), torch.zeros(len(weight), dtype=torch.float64)
    if len(nodes) > 1:
        return Site(scale, shift, relu=False)
    last = nodes[0]
    if norm := batch_norm_behind(last, module):
        scale, shift = _affine(module.get_submodule(str(norm.target)))  # type: ignore[arg-type]
        last = norm
    user = only_user(last)
    return Site(scale, shift, relu=user is not None and is_relu(user, module))


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift (n,) of `norm` in eval mode, in float64 on the CPU."""
    assert norm.running_var is not None and norm.running_mean is not None
    deviation = (norm.running_var.double().cpu() + norm.eps).sqrt()
    scale = (norm.weight.detach().double().cpu() if norm.affine else torch.ones_like(deviation)) / deviation
    shift = norm.bias.detach().double().cpu() if norm.affine else torch.zeros_like(deviation)
    return scale, shift - scale * norm.running_mean.double().cpu()
