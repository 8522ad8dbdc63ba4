"""The fastest exact implementation of a trained network: `optimise` finds it by timing, `build` rebuilds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.runtime.assembly import assemble
from paredown.runtime.choices import DTYPES
from paredown.runtime.equivalence import prove_equivalent
from paredown.runtime.search import Engine, Setting, find_fastest


@dataclass(frozen=True)
class OptimisedNetwork:
    """`module` in eval mode maps images (batch, channels, height, width) of its dtype and device, in any memory
    format, to logits; `choices` is the plain JSON data from which `build` rebuilds it."""

    module: nn.Module
    choices: dict[str, Any]


def optimise(
    network: Network,
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seconds: float = 20.0,
    *,
    portable: bool = False,
    engine: Engine | None = None,
) -> OptimisedNetwork:
    """Find the fastest exact implementation of the trained `network` for `batch` images on `device`, with torch's
    current number of threads. Whole networks are timed for about `seconds`. `portable` allows library operators only,
    as ONNX and torch.export require; `engine` is what runs them instead of torch.

    Raise UserError for an invalid batch or dtype, DeployError where a chosen backend is not exact.
    """
    if batch < 1 or dtype not in DTYPES.values():
        raise UserError(f"optimise for batch={batch} and {dtype}: a batch is at least 1, a dtype {', '.join(DTYPES)}")
    setting = Setting(batch, torch.device(device), dtype, portable, engine)
    choices = find_fastest(network, setting, seconds)
    prove_equivalent(network, choices)
    return OptimisedNetwork(build(network, choices).to(setting.device), choices)


def build(network: Network, choices: Mapping[str, Any]) -> nn.Module:
    """Build the module that `choices` describe, with the weights of the trained `network`; nothing is timed.

    Empty choices give `core.deploy.deploy`. Without a C++ compiler, layers with backend `native` run `plain`. Raise
    UserError for choices that do not fit the network.
    """
    module = assemble(network, choices)
    return module.to(DTYPES[choices["dtype"]]) if choices else module
