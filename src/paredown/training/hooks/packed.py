"""The packed form of SSC layers in training, which skips most of their zeros."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.ssc.layer import SSCConv2d

log = logging.getLogger("paredown")


@identity("packed", counts=False)
@dataclass(frozen=True)
class Packed(Hooks):
    """The packed form of `layers` while the fit lasts (`SSCConv2d.pack`): the same gradients, weights and states but
    for rounding. `on_gpu`: there too, where nobody has measured it."""

    layers: tuple[str, ...]
    on_gpu: bool = False

    def start(self, fit: FitState) -> None:
        """Pack, or say why not."""
        if fit.context.device.type != "cpu" and not self.on_gpu:
            log.info("ssc: trains in masked dense form on a GPU (method.packed=true packs there too)")
            return
        for name in self.layers:
            cast(SSCConv2d, fit.model.get_submodule(name)).pack()
        log.info("ssc: %d layers train in packed form", len(self.layers))
