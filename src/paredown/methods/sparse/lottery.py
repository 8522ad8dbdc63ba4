"""Lottery tickets (Frankle and Carbin, ICLR 2019; Frankle et al. 2019): magnitude pruning after a training, and another
training of what is left from the values that it had at an early epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from paredown.core.constraints import Count, NonNegativeInt, OpenFraction
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target
from paredown.frontier.plots import lines
from paredown.methods.sparse.pruning import Prune, ending, rewind, rounds_of
from paredown.surgery import saliency
from paredown.training.hooks.part import Part


@dataclass(frozen=True)
class Lottery(Prune):
    """Weights go back to their values after epoch `rewind` (0: their first ones). Of several `rounds` each keeps the
    same fraction; with `per_round`, that fraction, there are as many rounds as the target takes."""

    rewind: NonNegativeInt = 0
    rounds: Count = 1
    per_round: OpenFraction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_round is not None and self.rounds != 1:
            raise UserError("method.per_round decides how many rounds there are: leave method.rounds at 1")

    def saliency(self) -> saliency.Magnitude:
        """Return |w|."""
        return saliency.Magnitude()

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return a training, and for each round a pruning, a rewinding and a training. Raise UserError as `goal` does,
        for an epoch beyond the training and for a network whose first values are not known."""
        self.goal(target, network)
        if network.pretrained:
            raise UserError("lottery goes back to a network's first values: it takes no model.weights=")
        if self.rewind >= recipe.epochs:
            raise UserError(f"method.rewind={self.rewind} is beyond the training: recipe.epochs={recipe.epochs}")
        rest = self._trained("train", recipe)
        first = [Fit("start", replace(recipe, epochs=self.rewind), (Part(recipe, 0),))] if self.rewind else []
        stages: list[Stage] = [*first, rest]
        for number, goal in enumerate(self.goals(target), start=1):
            end = ending(number)
            stages.append(self.pruning(goal, end))
            stages.append(Edit(f"rewind{end}", rewind, {"to": "start" if self.rewind else None}))
            stages.append(self._trained(f"retrain{end}", recipe))
        return stages

    def _trained(self, name: str, recipe: Recipe) -> Fit:
        """Return the training from the epoch `rewind` on, at the learning rates of the whole."""
        if not self.rewind:
            return Fit(name, recipe)
        return Fit(name, replace(recipe, epochs=recipe.epochs - self.rewind), (Part(recipe, self.rewind),))

    def goals(self, target: Target | None) -> list[Goal]:
        """Return the goal of each round, the last one `target`."""
        if target is None:
            return []
        if self.per_round is None:
            return [goal for _, goal in rounds_of(target, self.rounds)]
        step = Target("sparsity", 1 - self.per_round) if target.quantity == "sparsity" else None
        left = 1 - target.value if step else 1 / target.value
        rounds = max(1, math.ceil(math.log(left) / math.log(self.per_round) - 1e-9))
        before = [self.per_round**number for number in range(1, rounds)]
        kept = [Target("sparsity", 1 - part) if step else Target("speed_up", 1 / part) for part in before]
        return [Goal.of(each) for each in (*kept, target)]

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the density of each layer and, of several rounds, the accuracy by density."""
        found, curve = super().figures(outcomes), _by_round(outcomes)
        if len(curve) > 2:
            title, x = "Test accuracy by round", "fraction of weights kept"
            found["rounds"] = lines({"test top-1": curve}, title, x, "percent", log="x")
        return found


def _by_round(outcomes: Sequence[Outcome]) -> dict[float, float]:
    """Return the last test top-1 (percent) of each training by its density."""
    density, rows = 1.0, {}
    for outcome in outcomes:
        if "kept" in outcome.notes:
            density = sum(outcome.notes["kept"].values()) / sum(outcome.notes["of"].values())
        if outcome.history and "test/top1" in outcome.history[-1] and outcome.stage.name != "start":
            rows[density] = outcome.history[-1]["test/top1"]
    return rows
