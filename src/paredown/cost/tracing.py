"""Shapes of the calls of a network's modules, recorded in one forward pass that leaves the network unchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown.core.deploy import deploy
from paredown.core.errors import UserError, reason
from paredown.core.modes import evaluating, hooked
from paredown.cost.operators import CostError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of the module `name`. Shapes are without the batch, whose size is 1 unless the network folds windows or
    tokens of the image into it."""

    name: str
    module: nn.Module
    batch: int
    input_shape: Shape
    output_shape: Shape

    @property
    def weight(self) -> Tensor:
        """The module's weight, output dimension first."""
        return cast(Tensor, self.module.weight)


def calls(network: nn.Module, modules: Mapping[str, nn.Module], input_shape: Shape) -> list[Call]:
    """Record the calls of `modules` (of `network`, by name) on one image, in the order in which they return."""
    found: list[Call] = []

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            given = inputs[0] if inputs else next(iter(named.values()))
            found.append(Call(name, module, len(given), tuple(given.shape[1:]), tuple(output.shape[1:])))

        return module.register_forward_hook(hook, with_kwargs=True)

    with hooked(note(name, module) for name, module in modules.items()):
        run(network, input_shape)
    return found


def run(network: nn.Module, input_shape: Shape) -> None:
    """Run `network` on one image of zeros, on its device and in its dtype, without changing modes or statistics.

    Raise UserError if it does not accept images of `input_shape` (channels, height, width).
    """
    tensors = chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    try:
        # in inference mode composite operators are not decomposed for the counters
        with torch.inference_mode(False), torch.no_grad(), evaluating(network):
            network(image)
    except CostError:
        raise
    except RuntimeError as error:
        shape = tuple(input_shape)
        raise UserError(
            f"{type(network).__name__} does not run on an image of shape {shape}: {reason(error)}"
        ) from error


def skeleton(network: nn.Module) -> nn.Module:
    """Return a deployed copy of `network` with all parameters set to one, so that only structural zeros are zero."""
    with torch.inference_mode(False), torch.no_grad():
        ones = copy.deepcopy(network)
        for parameter in ones.parameters():
            parameter.fill_(1.0)
        return deploy(ones)
