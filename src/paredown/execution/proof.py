"""That what runs computes what was trained: each layer that changed, and the network as a whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from paredown.execution.assembly import Maker, assemble
from paredown.execution.blocked import from_blocks, to_blocks
from paredown.execution.choices import DTYPES
from paredown.execution.graph import Traced, Unit
from paredown.plan import Network
from paredown.surgery.deploy import DeployError

EXACT = 1e-9
ROUNDED = {torch.float64: EXACT, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def prove(network: Network, choices: Mapping[str, Any], batch: int = 3) -> float:
    """The largest difference of the outputs of `choices` in their own dtype from the trained network's in float64, on
    random images, relative to the largest output. In float64 each layer and the whole are compared first, to 1e-9.

    Raises DeployError naming what differs.
    """
    exact = replace(network, module=copy.deepcopy(network.module).cpu().double().eval())
    shape = (batch, *network.input_shape)
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dtype = DTYPES[choices["dtype"]]
    with torch.no_grad():
        trained = exact.module(images)
        _layers(exact, choices["layers"])
        _compare("the network in float64", trained, assemble(exact, choices)(images), EXACT)
        rounded = assemble(network, choices).cpu().to(dtype)(images.to(dtype))
        return _compare(f"the network in {choices['dtype']}", trained, rounded.double(), ROUNDED[dtype])


def _layers(exact: Network, forms: Mapping[str, str]) -> None:
    """Each layer alone, so that no dead layer behind one hides a difference; those of plain form are as deployed."""
    units, maker = Traced(exact).units if forms else {}, Maker(exact)
    for name, form in forms.items():
        module = maker.make(units[name], form)
        if module is not None and form not in ("plain", "interleaved"):
            x = torch.randn(2, *units[name].input_shape[1:], dtype=torch.float64)
            made = from_blocks(module(to_blocks(x)), len(x)) if form == "native" else module(x)
            _compare(f"layer {name} in form {form}", _trained(units[name], x), made, EXACT)


def _trained(unit: Unit, x: Tensor) -> Tensor:
    norm: nn.Module = unit.norm or nn.Identity()
    return norm(unit.layer(x))


def _compare(what: str, trained: Tensor, made: Tensor, tolerance: float) -> float:
    difference = float((trained - made).abs().max() / trained.abs().max().clamp(min=1e-30))
    if trained.shape != made.shape or not difference <= tolerance:
        raise DeployError(f"{what} differs by {difference:.2e} of its largest value (tolerance {tolerance:g})")
    return difference
