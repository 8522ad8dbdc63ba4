"""TRP (Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks"): a dense network whose weights
are cut in rank all through its training, then written as pairs of convolutions."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paredown.errors import UserError
from paredown.figures import by_layer, lines, per_layer
from paredown.layers.low_rank import Form
from paredown.methods._pairs import product, put_pair, singular_values
from paredown.plan import Changes, Context, Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.surgery.low_rank import RankCost, Select, convolutions, dense_twin, target_cost
from paredown.training.trained_rank_pruning import TrainedRankPruning, spectra

log = logging.getLogger("paredown")
THRESHOLD = 0.05  # of the released script


@dataclass(frozen=True)
class TRP(Method):
    """The knobs of TRP; `conf/method/trp.yaml` says what each does."""

    form: Form = "spatial"
    period: int = 5
    energy: float = 0.1
    decay: float = 3e-4
    truncate: bool = True
    threshold: float | None = None
    select: Select = "trp"
    finetune: Changes = field(default_factory=lambda: Changes(epochs=0))

    def __post_init__(self) -> None:
        wrong = [
            f"method.{name}={getattr(self, name):g} ({rule})"
            for name, rule, holds in (
                ("period", "at least 1 step", self.period >= 1),
                ("energy", "in [0, 1): the fraction of squared singular values removed", 0 <= self.energy < 1),
                ("decay", "at least 0", self.decay >= 0),
                ("threshold", "at least 0, or null", self.threshold is None or self.threshold >= 0),
            )
            if not holds
        ]
        if wrong:
            raise UserError("; ".join(wrong))

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Train with truncation, decompose, finetune if asked for. UserError for a target with a threshold of one's
        own or out of reach at rank 1, and for a network with no layer to decompose."""
        names = tuple(convolutions(network.module, self.select))
        if target and self.threshold is not None:
            raise UserError(f"{target} finds the threshold itself: leave out method.threshold={self.threshold:g}")
        if target:
            target_cost(network, self.form, names, target)
        hook = TrainedRankPruning(self.form, names, self.energy, self.decay, self.period, self.truncate)
        threshold = THRESHOLD if self.threshold is None else self.threshold
        until = {target.quantity: target.value} if target else {"threshold": threshold}
        settings = {"form": self.form, "names": list(names), "until": until}
        stages: list[Stage] = [Fit("train", recipe, (hook,)), Edit("decompose", decompose, settings)]
        if self.finetune.epochs != 0:
            stages.append(Fit("finetune", recipe.changed(self.finetune)))
        return stages

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """`threshold`, `rank/sum` of `rank/full`, and `base/top1`, the accuracy before the decomposition."""
        done = {outcome.stage.name: outcome for outcome in outcomes}
        notes = done["decompose"].notes
        return {
            "threshold": notes["threshold"],
            "rank/sum": sum(notes["ranks"].values()),
            "rank/full": sum(notes["full_ranks"].values()),
            "base/top1": done["train"].history[-1]["test/top1"],
        }

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Ranks per layer; rank and nuclear norm over the training; singular values before the decomposition."""
        done = {outcome.stage.name: outcome for outcome in outcomes}
        notes, rows = done["decompose"].notes, done["train"].history
        ranks, full = notes["ranks"], notes["full_ranks"]
        trained = spectra(done["train"].network().module, self.form, list(ranks))
        values = {name: {"trained": s.tolist(), "kept": s[: ranks[name]].tolist()} for name, s in trained.items()}
        over_epochs = {
            name.replace("/", "_"): lines({name: {e: row[name] for e, row in enumerate(rows, 1)}}, title, "epoch", name)
            for name, title in OVER_EPOCHS.items()
        }
        return {
            "ranks": per_layer({"full": full, "kept": ranks}, "Rank per layer", "rank"),
            "singular_values": by_layer(values, "Singular values after training", "index", "singular value"),
        } | over_epochs


OVER_EPOCHS = {
    "rank/truncated": "Summed rank to which truncation cuts",
    "nuclear_norm/sum": "Summed nuclear norm",
}


def decompose(
    network: Network, context: Context, form: Form, names: Sequence[str], until: Mapping[str, float]
) -> dict[str, Any]:
    """Make each convolution of `names` a pair that keeps the singular values above one threshold: `until` gives it
    ({"threshold": t}), or asks for the least that reaches a target ({"speed_up": 2}). Returns threshold and ranks."""
    products = {name: product(network, name, form) for name in names}
    values = singular_values(products)
    macs = RankCost.of(dense := dense_twin(network), form, names)
    (goal, value) = next(iter(until.items()))
    if goal != "threshold":
        target = Target(goal, value)  # type: ignore[arg-type]
        value = threshold_within(values, *target_cost(dense, form, names, target))
    ranks = ranks_above(values, value)
    for name, weights in products.items():
        bias: Any = network.module.get_submodule(name).bias
        put_pair(network, name, form, weights, ranks[name], bias)
    _tell(value, ranks, macs)
    return {"threshold": value, "ranks": ranks, "full_ranks": dict(macs.highest)}


def ranks_above(values: Mapping[str, Tensor], threshold: float) -> dict[str, int]:
    """How many of each layer's singular values lie above `threshold`; at least 1."""
    return {name: max(1, int((s > threshold).sum())) for name, s in values.items()}


def threshold_within(values: Mapping[str, Tensor], cost: RankCost, limit: float) -> float:
    """The least threshold at which `cost` is at most `limit`, by bisection over all the singular values; halfway to the
    next one, so that no rounding decides."""
    steps = torch.cat(list(values.values())).unique().tolist()
    between = [(low + high) / 2 for low, high in zip(steps, [*steps[1:], 2 * steps[-1]], strict=True)]
    thresholds = [0.0, *between]
    return thresholds[bisect_left(thresholds, -limit, key=lambda t: -cost.total(ranks_above(values, t)))]


def _tell(threshold: float, ranks: Mapping[str, int], macs: RankCost) -> None:
    kept, full, ratio = sum(ranks.values()), sum(macs.highest.values()), macs.ratio(ranks)
    log.info("decompose: %d of %d singular values above %.3g, %.2fx fewer MACs", kept, full, threshold, ratio)
    if ratio < 1:
        log.warning("decompose: the low-rank network needs %.2fx the MACs of the dense one", 1 / ratio)
