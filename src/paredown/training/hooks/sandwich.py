"""The sandwich rule: one network trained at its full width, its smallest, and random ones (Yu and Huang 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import digest, identity
from paredown.core.network import Network
from paredown.surgery.prefixes import choices_of, drawn_widths, maskable_groups, narrower, steps_of
from paredown.surgery.width_budget import Scope, Widths


@identity("autoslim/sandwich")
@dataclass
class Sandwich(Hooks):
    """Adds to the cross-entropy of the full width those of the smallest and of `samples` random widths to the full
    one's softmax, which gets no gradient from them. Widths run from the fraction `least` to 1 in `steps`, drawn for
    each group of `scope` from the stage's seed and the step."""

    least: float = 0.15
    steps: int = 10
    samples: int = 2
    scope: Scope | tuple[str, ...] = "all"

    @property
    def extra_passes(self) -> int:
        """Those of the smallest and of the random widths."""
        return 1 + self.samples

    def start(self, fit: FitState) -> None:
        """Find the groups of channels."""
        self._groups = maskable_groups(Network(fit.model, {}, fit.context.data.input_shape), self.scope)
        self._step = steps_of(self._groups, self.steps)

    def widths(self, seed: int, step: int) -> list[Widths]:
        """Return the widths of the narrower passes of a step: the smallest, and the drawn ones."""
        generator = torch.Generator().manual_seed(int(digest([seed, step])[:15], 16))
        smallest = {g.name: choices_of(g, self.least, self._step[g.name])[0] for g in self._groups}
        drawn = [drawn_widths(self._groups, self.least, self._step, generator) for _ in range(self.samples)]
        return [smallest, *drawn]

    def loss(self, fit: FitState, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Return the sum of the losses of all widths."""
        soft = logits.detach().float().softmax(1)
        for widths in self.widths(fit.context.seed, fit.step):
            with narrower(fit.model, self._groups, widths):
                narrow = fit.model(images)
            loss = loss - (soft * narrow.float().log_softmax(1)).sum(1).mean()
        return loss
