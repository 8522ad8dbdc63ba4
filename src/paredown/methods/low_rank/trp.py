"""TRP (Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks"): dense training with repeated
truncation of the weights' ranks, then a decomposition into pairs of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from paredown.core.constraints import Count, Energy, NonNegative
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.frontier.plots import by_layer, lines
from paredown.layers.factorised.forms import Factorisation
from paredown.methods.families import DecomposeTrained, notes_of, over_epochs, rank_figure, rank_metrics
from paredown.methods.low_rank.pairs import truncate
from paredown.methods.low_rank.papers import FORMS, Form
from paredown.surgery.factorise import Select, convolutions
from paredown.surgery.rank_budget import require_reach, uniform
from paredown.training.hooks.rank_truncation import TrainedRankPruning, spectra

THRESHOLD = 0.05  # of the released script
OVER_EPOCHS = {
    "rank/truncated": "Summed rank to which truncation cuts",
    "nuclear_norm/sum": "Summed nuclear norm",
}


@dataclass(frozen=True)
class TRP(DecomposeTrained):
    """The hyperparameters of TRP, explained in `conf/method/trp.yaml`."""

    form: Form = "spatial"
    period: Count = 5
    energy: Energy = 0.1
    decay: NonNegative = 3e-4
    truncate: bool = True
    threshold: NonNegative | None = None
    select: Select = "trp"
    finetune: RecipeOverrides = field(default_factory=lambda: RecipeOverrides(epochs=0), kw_only=True)
    finetunes: ClassVar[bool] = True

    @property
    def factorisation(self) -> Factorisation:
        """The factorisation that the paper calls `form`."""
        return FORMS[self.form]

    def training(self, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the training with truncation, of brought weights too."""
        names = tuple(convolutions(network.module, self.select))
        hook = TrainedRankPruning(self.factorisation, names, self.energy, self.decay, self.period, self.truncate)
        return [Fit("train", recipe, (hook,))]

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the truncation at a threshold. Raise UserError for a target beside a threshold or out of reach."""
        names = list(convolutions(network.module, self.select))
        if target and self.threshold is not None:
            raise UserError(f"{target} finds the threshold itself: leave out method.threshold={self.threshold:g}")
        if target:
            require_reach(network, target, uniform(dict.fromkeys(names, 1), self.factorisation))
        threshold = THRESHOLD if self.threshold is None else self.threshold
        goal = Goal.of(target) if target else Goal("threshold", threshold)
        settings = {"factorisation": self.factorisation, "names": names, "goal": goal, "criterion": "threshold"}
        return Edit("decompose", truncate, settings)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the accuracies of the base class, `threshold`, and `rank/sum` of `rank/full`."""
        notes = notes_of(outcomes, "decompose")
        return super().metrics(outcomes) | {"threshold": notes["threshold"]} | rank_metrics(notes)

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the ranks, the singular values before the decomposition, and rank and nuclear norm by epoch."""
        done = {outcome.stage.name: outcome for outcome in outcomes}
        notes, rows = done["decompose"].notes, done["train"].history
        ranks = notes["ranks"]
        trained = spectra(done["train"].network().module, self.factorisation, list(ranks))
        values = {name: {"trained": s.tolist(), "kept": s[: ranks[name]].tolist()} for name, s in trained.items()}
        trends = {
            name.replace("/", "_"): lines(over_epochs(rows, {name: name}), title, "epoch", name)
            for name, title in OVER_EPOCHS.items()
        }
        title = "Singular values after training"
        return rank_figure(notes) | {"singular_values": by_layer(values, title, "index", "singular value")} | trends
