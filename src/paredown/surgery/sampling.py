"""Samples of convolutions' responses to training images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.modes import hooked
from paredown.core.progress import passed
from paredown.data.images import ImageData
from paredown.layers.geometry import bordered

log = logging.getLogger("paredown")
BATCH = 256
SAMPLES_PER_DIMENSION = 10  # below this a regression is poorly determined
FEW = "%d layers have under %d samples per dimension, %s only %d for %d (see method.images and method.positions)"
View = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (layer, input, output) -> the maps (B, p, H, W) to sample


def outputs(layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
    """Return a layer's output: the `View` of its responses."""
    return output


def patches(layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
    """Return the input patch of each output position of a convolution, (B, c * kh * kw, H, W), as a `View`; those of
    its groups one after the other."""
    assert isinstance(layer, nn.Conv2d)
    found = functional.unfold(bordered(layer, given), layer.kernel_size, layer.dilation, stride=layer.stride)
    return found.unflatten(2, output.shape[2:])


@dataclass(frozen=True)
class Sampler:
    """Draws the same samples at every call: the first `images` training images, in an order and with augmentations
    fixed by `seed`, and `positions` random positions in each map, the same for all maps of equal size."""

    data: ImageData
    images: int
    positions: int
    seed: int
    device: torch.device

    @torch.no_grad()
    def collect(self, module: nn.Module, names: Sequence[str], view: View = outputs) -> dict[str, Tensor]:
        """Return samples (N, p) of the layers `names` of `module`, on the CPU. Each forward pass stops at the last of
        these layers."""
        batches, left = [], self.images
        loader = self.data.train_loader(BATCH, self.seed, self.device)
        for number, (images, _) in enumerate(passed(loader, "responses", -(-self.images // BATCH))):
            batches.append(self._forward(module, images[:left], number, names, view))
            left -= len(images)
            if left <= 0:
                break
        return {name: torch.cat([batch[name] for batch in batches]) for name in names}

    def _forward(
        self, module: nn.Module, images: Tensor, number: int, names: Sequence[str], view: View
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def hook(name: str) -> Any:
            def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                found[name] = self._at_positions(view(layer, inputs[0], output), number)
                if len(found) == len(names):
                    raise _AllCollected

            return keep

        handles = (module.get_submodule(name).register_forward_hook(hook(name)) for name in names)
        with hooked(handles), suppress(_AllCollected):
            module(images)
        return found

    def _at_positions(self, maps: Tensor, number: int) -> Tensor:
        """Sample `maps` (B, p, H, W) of batch `number` at random positions; return (B * positions, p)."""
        flat = maps.flatten(2)
        images, width, area = flat.shape
        generator = torch.Generator().manual_seed(self.seed + number)
        chosen = torch.rand(images, area, generator=generator).argsort(1)[:, : self.positions].to(flat.device)
        taken = flat.gather(2, chosen[:, None].expand(-1, width, -1))
        return taken.transpose(1, 2).flatten(0, 1).cpu()


def warn_of_few(samples: Mapping[str, tuple[int, ...]]) -> None:
    """Log a warning for layers with under SAMPLES_PER_DIMENSION samples per dimension; shapes (N, p) by layer."""
    few = {name: shape for name, shape in samples.items() if shape[0] < SAMPLES_PER_DIMENSION * shape[1]}
    if few:
        name, (count, width) = max(few.items(), key=lambda item: item[1][1] / item[1][0])
        log.warning(FEW, len(few), SAMPLES_PER_DIMENSION, name, count, width)


class _AllCollected(Exception):
    """Ends a forward pass once every requested layer has run."""
