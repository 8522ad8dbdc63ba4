"""Responses of convolutions to training images: where they go in the network, and samples of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from paredown.data.images import ImageData
from paredown.errors import UserError

log = logging.getLogger("paredown")
BATCH = 256
PER_DIMENSION = 10  # samples that a regression is to have
FEW = "%d layers have under %d samples per dimension, %s only %d for %d (see method.images and method.positions)"
RELU_FUNCTIONS = (torch.relu, torch.relu_, functional.relu, functional.relu_)
View = Callable[[nn.Module, Tensor, Tensor], Tensor]  # layer, input, output -> what is sampled of it, (B, p, H, W)


@dataclass(frozen=True)
class Site:
    """What takes the n outputs of a convolution: a batch norm, in eval mode times `scale` (n,) plus `shift` (n,), and
    then, or not, a `relu`. Without a batch norm they are 1 and 0."""

    scale: Tensor
    shift: Tensor
    relu: bool

    def after(self, outputs: Tensor) -> Tensor:
        """The convolution's `outputs` (N, n) as they leave the batch norm, in float64."""
        return outputs.double() * self.scale + self.shift

    def before(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Given a map (weight (n, p), bias (n,)) to what leaves the batch norm, the map to what must enter it; zeros
        for a channel that it multiplies by 0."""
        inverse = torch.where(self.scale == 0, 0, 1 / self.scale)
        return inverse[:, None] * weight, inverse * (bias - self.shift)


def sites(module: nn.Module, names: Sequence[str]) -> dict[str, Site]:
    """The sites of the convolutions `names` in the order in which `module` calls them, found by tracing it; a ReLU or
    batch norm counts where it is all that takes what comes before it. UserError for what torch.fx cannot trace."""
    try:
        nodes = fx.Tracer().trace(module).nodes
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"torch.fx cannot trace {type(module).__name__} to see what follows a layer: {reason}"
        ) from error
    calls: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if node.op == "call_module" and node.target in names:
            calls.setdefault(str(node.target), []).append(node)
    return {name: _site(module, name, made) for name, made in calls.items()}


def _site(module: nn.Module, name: str, made: Sequence[fx.Node]) -> Site:
    weight = module.get_submodule(name).weight.detach()  # type: ignore[operator]
    scale, shift = torch.ones(len(weight), dtype=torch.float64), torch.zeros(len(weight), dtype=torch.float64)
    if len(made) > 1:  # called in several places: no one batch norm or ReLU to fold
        return Site(scale, shift, relu=False)
    node = _only_user(made[0])
    norm = module.get_submodule(str(node.target)) if node and node.op == "call_module" else None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
        scale, shift = _affine(norm)
        node = _only_user(node)
    return Site(scale, shift, relu=node is not None and _is_relu(module, node))


def _only_user(node: fx.Node | None) -> fx.Node | None:
    users = list(node.users) if node else []
    return users[0] if len(users) == 1 else None


def _is_relu(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.ReLU)
    return node.target in RELU_FUNCTIONS or (node.op == "call_method" and node.target in ("relu", "relu_"))


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """`norm` in eval mode as a scale and a shift (n,), in float64 on the CPU."""
    assert norm.running_var is not None and norm.running_mean is not None
    deviation = (norm.running_var.double().cpu() + norm.eps).sqrt()
    scale = (norm.weight.detach().double().cpu() if norm.affine else torch.ones_like(deviation)) / deviation
    shift = norm.bias.detach().double().cpu() if norm.affine else torch.zeros_like(deviation)
    return scale, shift - scale * norm.running_mean.double().cpu()


def outputs(layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
    """A layer's outputs, as a `View`."""
    return output


def patches(layer: nn.Module, given: Tensor, output: Tensor) -> Tensor:
    """What a convolution's weight (n, c, kh, kw) meets at each of its outputs, (B, c * kh * kw, H, W), as a `View`: its
    own padding and stride under the identity as a kernel."""
    assert isinstance(layer, nn.Conv2d)
    shape = layer.weight.shape[1:]
    identity = torch.eye(shape.numel(), dtype=given.dtype, device=given.device)
    return layer._conv_forward(given, identity.reshape(-1, *shape), None)


@dataclass(frozen=True)
class Sampler:
    """Draws the same at every call: the first `images` training images in an order, and under an augmentation, that
    `seed` fixes, and of each map of responses `positions` places, the same ones in maps of the same size."""

    data: ImageData
    images: int
    positions: int
    seed: int
    device: torch.device

    @torch.no_grad()
    def collect(self, module: nn.Module, names: Sequence[str], view: View = outputs) -> dict[str, Tensor]:
        """Samples (N, p) of the layers `names` of `module`, on the CPU. The network runs no further than it must."""
        batches, left = [], self.images
        for number, (images, _) in enumerate(self.data.train_loader(BATCH, self.seed, self.device)):
            batches.append(self._pass(module, images[:left], number, names, view))
            left -= len(images)
            if left <= 0:
                break
        return {name: torch.cat([batch[name] for batch in batches]) for name in names}

    def _pass(
        self, module: nn.Module, images: Tensor, number: int, names: Sequence[str], view: View
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def hook(name: str) -> Any:
            def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                found[name] = self._chosen(view(layer, inputs[0], output), number)
                if len(found) == len(names):
                    raise _Found

            return keep

        handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
        try:
            module(images)
        except _Found:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _chosen(self, maps: Tensor, number: int) -> Tensor:
        """Of `maps` (B, p, H, W) of batch `number` some positions, (B * positions, p)."""
        flat = maps.flatten(2)
        images, width, places = flat.shape
        generator = torch.Generator().manual_seed(self.seed + number)
        chosen = torch.rand(images, places, generator=generator).argsort(1)[:, : self.positions].to(flat.device)
        taken = flat.gather(2, chosen[:, None].expand(-1, width, -1))
        return taken.transpose(1, 2).flatten(0, 1).cpu()


def warn_of_few(samples: Mapping[str, tuple[int, ...]]) -> None:
    """Say so where a layer has fewer than 10 samples for each of its dimensions; shapes (N, p) by layer."""
    few = {name: shape for name, shape in samples.items() if shape[0] < PER_DIMENSION * shape[1]}
    if few:
        name, (count, width) = max(few.items(), key=lambda item: item[1][1] / item[1][0])
        log.warning(FEW, len(few), PER_DIMENSION, name, count, width)


class _Found(Exception):
    """Ends a forward pass in which everything asked for was seen."""
