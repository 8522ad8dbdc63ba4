"""Train SSC layers without multiplying by most of their zeros."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from torch import nn

from paredown.layers.ssc import SSCConv2d
from paredown.plan import Context, Hooks

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Packed(Hooks):
    """Run `layers` in packed form while the fit lasts (`SSCConv2d.pack`): the same gradients, weights and states but
    for rounding. `on_gpu`: there too, where nobody has measured it."""

    layers: tuple[str, ...]
    on_gpu: bool = False

    in_key = False

    def start(self, network: nn.Module, context: Context) -> None:
        """Pack, or say why not."""
        if context.device.type != "cpu" and not self.on_gpu:
            log.info("ssc: trains in masked dense form on a GPU (method.packed=true packs there too)")
            return
        for name in self.layers:
            cast(SSCConv2d, network.get_submodule(name)).pack()
        log.info("ssc: %d layers train in packed form", len(self.layers))
