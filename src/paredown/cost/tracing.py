"""One pass of one empty image through a network that is left as it was, and what its modules see in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown.cost.operators import CostError
from paredown.errors import UserError
from paredown.surgery.deploy import deploy

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of the module `name`; the shapes are without the batch, which is 1 unless the network folds windows or
    tokens of the one image into it."""

    name: str
    module: nn.Module
    batch: int
    input_shape: Shape
    output_shape: Shape

    @property
    def weight(self) -> Tensor:
        """The module's weight, outputs first."""
        return cast(Tensor, self.module.weight)


def calls(network: nn.Module, modules: Mapping[str, nn.Module], input_shape: Shape) -> list[Call]:
    """The calls of `modules` (of `network`, by name) on one image, in the order in which they end."""
    found: list[Call] = []

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
            given = inputs[0] if inputs else next(iter(named.values()))
            found.append(Call(name, module, len(given), tuple(given.shape[1:]), tuple(output.shape[1:])))

        return module.register_forward_hook(hook, with_kwargs=True)

    handles = [note(name, module) for name, module in modules.items()]
    try:
        run(network, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    return found


def run(network: nn.Module, input_shape: Shape) -> None:
    """Run `network` on one image of zeros, of its own device and dtype; modes and statistics stay as they are.

    Raises UserError where it does not take images of `input_shape` (channels, height, width).
    """
    tensors = chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    try:
        # inference mode hides from the counters what a composite operator is made of
        with torch.inference_mode(False), torch.no_grad(), _evaluating(network):
            network(image)
    except CostError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        shape = tuple(input_shape)
        raise UserError(f"{type(network).__name__} does not run on an image of shape {shape}: {reason}") from error


def skeleton(network: nn.Module) -> nn.Module:
    """The deployed copy of `network` whose parameters are all one: its zeros are the structural ones, and only they."""
    with torch.inference_mode(False), torch.no_grad():
        ones = copy.deepcopy(network)
        for parameter in ones.parameters():
            parameter.fill_(1.0)
        return deploy(ones)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
