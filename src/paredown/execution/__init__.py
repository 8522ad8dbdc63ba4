"""Deployed networks that are really faster: which exact form of each layer runs fastest here, found by timing.

`optimise` times and chooses; what it chose is plain data, from which `build` makes the same module again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paredown.errors import UserError
from paredown.execution.assembly import assemble
from paredown.execution.choices import DTYPES
from paredown.execution.proof import prove
from paredown.execution.search import Setting, fastest
from paredown.plan import Network

__all__ = ["Execution", "build", "optimise"]


@dataclass(frozen=True)
class Execution:
    """`module` in eval mode, to be called on images (batch, channels, height, width) of its dtype and device, laid out
    as they come; `choices` is the plain JSON data from which `build` makes it again."""

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
) -> Execution:
    """The fastest exact form of the trained `network` for `batch` images on `device`, at torch's present number of
    threads; whole networks are timed for about `seconds`. `portable`: library operators alone, as ONNX and torch.export
    need them. Raises UserError for a batch or dtype that cannot be, DeployError where a chosen form is not exact.
    """
    if batch < 1 or dtype not in DTYPES.values():
        raise UserError(f"execution for batch={batch} and {dtype}: a batch is at least 1, a dtype {', '.join(DTYPES)}")
    setting = Setting(batch, torch.device(device), dtype, portable)
    choices = fastest(network, setting, seconds)
    prove(network, choices)
    return Execution(build(network, choices).to(setting.device), choices)


def build(network: Network, choices: Mapping[str, Any]) -> nn.Module:
    """The module that `choices` describe, with the weights of the trained `network`; nothing is timed. {} gives
    `surgery.deploy.deploy`. A layer that the native kernel should run has its plain form where there is no
    compiler. Raises UserError for choices that do not fit the network."""
    module = assemble(network, choices)
    return module.to(DTYPES[choices["dtype"]]) if choices else module
