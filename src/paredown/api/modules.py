"""Modules, and the shapes of their images, as the API takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from paredown.core.compressed import CompressedLayer
from paredown.core.deploy import deploy
from paredown.core.errors import UserError
from paredown.layers.local import LocallyConnected2d
from paredown.models.head import logits_of
from paredown.models.live import copied

MADE_PLAIN = (
    "layers of an earlier compression were made plain first: all is measured against that, and zeros may be trained"
)


def check_module(module: nn.Module) -> None:
    """Raise UserError for what is no plain module with weights."""
    if not isinstance(module, nn.Module):
        raise UserError(f"compress takes an nn.Module, got {type(module).__name__}")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UserError(f"the network is wrapped in {type(module).__name__}: give network.module")
    if hasattr(module, "_orig_mod"):
        raise UserError("the network is compiled by torch.compile: give the module behind it, network._orig_mod")
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError("the network is a TorchScript module: give the nn.Module that it was made of")
    parameters = dict(module.named_parameters())
    tensors = {**parameters, **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if torch.nn.parameter.is_lazy(tensor):
            raise UserError(f"{name} has no shape yet: run the network once on a batch, then compress it")
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
            raise UserError(f"{name} is a {tensor.dtype} tensor on {tensor.device}, {tensor.layout}: no plain weights")
    for name, parameter in parameters.items():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise UserError(
                f"{name} is {parameter.dtype}, and networks are compressed in torch.float32: give net.float()"
            )
    if not parameters:
        raise UserError("the network has no weights")


def made_plain(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return `module` with the layers that an earlier compression put into it as plain ones, and a note of that."""
    layers = [layer for layer in module.modules() if isinstance(layer, CompressedLayer)]
    if all(type(layer) is LocallyConnected2d for layer in layers):  # an architecture's own
        return module, []
    return deploy(copied(module)), [MADE_PLAIN]


def checked_shape(shape: Any) -> tuple[int, int, int]:
    """Return `shape` as three whole numbers. Raise UserError for anything else, as a shape with the batch in it."""
    if (
        not isinstance(shape, tuple | list | torch.Size)
        or len(shape) != 3
        or not all(isinstance(size, int) and size > 0 for size in shape)
    ):
        raise UserError(f"input_shape={shape!r} is not (channels, height, width)")
    return (shape[0], shape[1], shape[2])


def classes_of(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many logits `module` gives an image of `shape`. Raise UserError where it gives anything else."""
    return logits_of(copied(module), shape).shape[1]
