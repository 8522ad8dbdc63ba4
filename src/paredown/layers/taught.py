"""The kind `taught`: a low-rank layer that still has the weights of the dense one, to be distilled from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.layers.branches import Branches


class TaughtConv2d(CompressedLayer):
    """`student`, the branches, is what computes, trains and ships; `weight` and `offset` are the dense layer's."""

    def __init__(self, dense: nn.Conv2d, branches: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.student = Branches(dense, branches)
        self._shell = (copy.deepcopy(dense).to("meta"),)  # its settings; in a tuple, so that it is no submodule
        self.register_buffer("weight", dense.weight.detach().clone())
        self.register_buffer("offset", None if dense.bias is None else dense.bias.detach().clone())
        self.weight: Tensor
        self.offset: Tensor | None

    @torch.no_grad()
    def become(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take the dense weights, and the best approximation of them."""
        self.weight.copy_(weight)
        if self.offset is not None and bias is not None:
            self.offset.copy_(bias)
        self.student.become(weight, bias)

    def dense(self) -> nn.Conv2d:
        """The convolution that teaches."""
        conv = copy.deepcopy(self._shell[0]).to_empty(device=self.weight.device)
        conv.weight = nn.Parameter(self.weight.clone())
        conv.bias = None if self.offset is None else nn.Parameter(self.offset.clone())
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W'), by the student."""
        return self.student(x)

    def active_weights(self) -> int:
        """The student's."""
        return self.student.active_weights()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """The student's."""
        return self.student.macs(input_shape)

    def deployed(self) -> nn.Module:
        """The student's."""
        return self.student.deployed()


def build(dense: nn.Module, branches: Sequence[Mapping[str, Any]]) -> TaughtConv2d:
    """Branches in the place of `dense`, from scratch, beside its weights."""
    return TaughtConv2d(dense, branches)  # type: ignore[arg-type]


def taught(module: nn.Module) -> dict[str, TaughtConv2d]:
    """The taught layers of `module`, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, TaughtConv2d)}


def teacher(module: nn.Module) -> nn.Module:
    """A frozen copy of `module`, in eval mode, with the dense layers in the place of the taught ones."""
    dense = copy.deepcopy(module)
    for name, layer in taught(dense).items():
        dense.set_submodule(name, layer.dense())
    return dense.requires_grad_(False).eval()
