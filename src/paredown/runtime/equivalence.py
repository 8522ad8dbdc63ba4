"""The proof that an optimised network computes what was trained, layer by layer and as a whole."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.deploy import DeployError, relative_difference
from paredown.core.errors import reason
from paredown.core.network import Network
from paredown.runtime.assembly import LayerBuilder, assemble
from paredown.runtime.blocked_layers import from_blocks, to_blocks
from paredown.runtime.choices import DTYPES
from paredown.runtime.units import Traced, Unit

log = logging.getLogger("paredown")
EXACT = 1e-9
TOLERANCE = {torch.float64: EXACT, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def prove_equivalent(network: Network, choices: Mapping[str, Any]) -> float:
    """Compare the network of `choices` with the trained `network` on three random images.

    In float64, each layer and the whole network must agree to 1e-9 of the largest value. Return the largest difference
    of the outputs in the dtype of `choices` from the float64 outputs of the trained network, relative to the largest
    output. Raise DeployError naming what differs.
    """
    exact = replace(network, module=copy.deepcopy(network.module).cpu().double().eval())
    images = torch.randn(3, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dtype = DTYPES[choices["dtype"]]
    with torch.no_grad():
        trained = exact.module(images)
        _compare_layers(exact, choices["layers"])
        _compare("the network in float64", trained, assemble(exact, choices)(images), EXACT)
        rounded = assemble(network, choices).cpu().to(dtype)(images.to(dtype))
        return _compare(f"the network in {choices['dtype']}", trained, rounded.double(), TOLERANCE[dtype])


@torch.no_grad()
def reproduces(module: nn.Module, exact: nn.Module, x: Tensor) -> bool:
    """Return whether `module` gives for `x`, on its device and in its dtype, what `exact` gives in float64 there."""
    reference = copy.deepcopy(exact).to(x.device).double().eval()
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            _compare("it", reference(x.double()), module(x).double(), TOLERANCE[x.dtype])
    except Exception as error:  # a compiler's or a driver's, of types of their own: the form is not taken then
        log.warning("a form is left out, on %s: %s", x.device, reason(error))
        return False
    return True


def _compare_layers(exact: Network, backends: Mapping[str, str]) -> None:
    # each layer alone, so that a dead layer behind one cannot hide a difference; plain layers are as deployed
    units, builder = Traced(exact).units if backends else {}, LayerBuilder(exact)
    for name, backend in backends.items():
        module = builder.build(units[name], backend)
        if module is not None and backend not in ("plain", "interleaved"):
            x = torch.randn(2, *units[name].input_shape[1:], dtype=torch.float64)
            output = from_blocks(module(to_blocks(x)), len(x)) if backend == "native" else module(x)
            _compare(f"layer {name} with backend {backend}", _trained(units[name], x), output, EXACT)


def _trained(unit: Unit, x: Tensor) -> Tensor:
    norm: nn.Module = unit.norm or nn.Identity()
    return norm(unit.layer(x))


def _compare(what: str, trained: Tensor, optimised: Tensor, tolerance: float) -> float:
    difference = relative_difference(trained, optimised)
    if trained.shape != optimised.shape or not difference <= tolerance:
        raise DeployError(f"{what} differs by {difference:.2e} of its largest value (tolerance {tolerance:g})")
    return difference
