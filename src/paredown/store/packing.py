"""Storage of tensors without their zeros, so that masks and patterns reduce the size on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from paredown.core.errors import UserError

LIVE = ".live"  # suffix of the bitmap of a tensor's non-zero entries, in row-major order
Shapes = dict[str, list[int]]


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Shapes]:
    """Store each tensor as its non-zero values (none for a boolean one) and a bitmap, if that is smaller. Return the
    stored tensors and the shapes of the packed ones."""
    packed: dict[str, Tensor] = {}
    shapes: Shapes = {}
    for name, tensor in tensors.items():
        live = tensor != 0
        values = tensor[live] if tensor.dtype != torch.bool else tensor.new_empty(0)
        bits = torch.from_numpy(np.packbits(live.flatten().numpy()))
        if values.nbytes + bits.nbytes < tensor.nbytes:
            packed |= {name: values, name + LIVE: bits}
            shapes[name] = list(tensor.shape)
        else:
            packed[name] = tensor.contiguous()
    return packed, shapes


def packed_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes that `tensors` take as `pack` stores them, without names and shapes."""
    return sum(tensor.nbytes for tensor in pack(tensors)[0].values())


def unpack(packed: Mapping[str, Tensor], shapes: Shapes, source: str) -> dict[str, Tensor]:
    """Invert `pack`. Raise UserError, naming `source`, where values, bitmaps and shapes are inconsistent."""
    tensors = {name: tensor for name, tensor in packed.items() if name.removesuffix(LIVE) not in shapes}
    for name, shape in shapes.items():
        if name not in packed or name + LIVE not in packed:
            raise UserError(f"{source} has no tensor {name!r}, which is in its list of packed ones")
        values, size = packed[name], math.prod(shape)
        bits = np.unpackbits(packed[name + LIVE].numpy())
        live = torch.from_numpy(bits[:size]).bool()
        boolean = values.dtype == torch.bool
        if len(bits) != -(-size // 8) * 8 or (not boolean and len(values) != int(live.sum())):
            raise UserError(f"{source}: the bits of {name} fit neither its shape {shape} nor its {len(values)} values")
        tensors[name] = (live if boolean else values.new_zeros(size).masked_scatter_(live, values)).view(shape)
    return tensors
