"""Skeletons of methods, and the notes, metrics and figures that their methods share."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.frontier.plots import per_layer
from paredown.surgery.factorise import decompose
from paredown.surgery.rank_budget import Designs
from paredown.training.evaluate import evaluate

log = logging.getLogger("paredown")
EVAL_BATCH = 256
TOPS = ("top1", "top5")


@dataclass(frozen=True)
class DecomposeTrained(Method):
    """A training (not of a network whose weights the user brought), a decomposition, and a finetuning if asked.

    The edit is called `decompose`; its notes hold the `accuracy` before and after it, as `base` and `decomposed`.
    """

    finetune: RecipeOverrides = field(default_factory=RecipeOverrides, kw_only=True)
    finetunes: ClassVar[bool] = False  # finetune.epochs=null: whether to finetune as long as the recipe says, or not

    @abstractmethod
    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the edit `decompose`. Raise UserError for a target it cannot meet."""

    def training(self, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages that precede the decomposition."""
        return train_dense(network, recipe)

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `decomposition` does."""
        stages = [*self.training(network, recipe), self.decomposition(target, network)]
        return [*stages, *self.further("finetune", recipe)]

    def untrained(self) -> dict[str, str]:
        """Return the finetuning too where it is only done if asked."""
        unasked = self.finetune.epochs is None and not self.finetunes
        return super().untrained() | ({"finetune": "method.finetune.epochs=null"} if unasked else {})

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the test accuracy (percent) before the decomposition, `base/top1`, and right after it,
        `decomposed/top1`, and what the method gained in all, `gain/base_top1`; each for top5 too."""
        last, notes = outcomes[-1], notes_of(outcomes, "decompose")
        return gains(notes, last.accuracy() if last.stage.name == "finetune" else notes["decomposed"])

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the groups and the rank of each decomposed layer."""
        designs = {name: branches[0] for name, branches in notes_of(outcomes, "decompose")["designs"].items()}
        curves = {what: {name: branch[what] for name, branch in designs.items()} for what in ("groups", "rank")}
        return {"designs": per_layer(curves, "Groups, and rank in each, of the decomposed layers", "number", log=True)}


def train_dense(network: Network, recipe: Recipe) -> list[Stage]:
    """Return the training of the dense `network`; none where the user brought its weights."""
    return [] if network.pretrained else [Fit("train", recipe)]


def only_goal(
    method: str,
    decides: str,
    target: Target | None,
    own: Mapping[str, Any],
    targets: Sequence[str] = ("sparsity", "speed_up"),
) -> Goal:
    """Return the one goal among `target`, of one of `targets`, and the hyperparameters `own` that are not None;
    `decides` names what follows from it. Raise UserError unless there is exactly one."""
    goals = [Goal.of(target)] if target else []
    goals += [Goal(name, value) for name, value in own.items() if value is not None]  # type: ignore[arg-type]
    if len(goals) != 1:
        *names, last = [*(f"{name}=" for name in targets), *(f"method.{name}=" for name in own)]
        got = " and ".join(f"method.{goal}" if goal.quantity in own else str(goal) for goal in goals)
        raise UserError(f"{method} takes its {decides} from one of {', '.join(names)} and {last}, got {got or 'none'}")
    return goals[0]


def notes_of(outcomes: Sequence[Outcome], stage: str) -> Mapping[str, Any]:
    """Return the notes of the edit called `stage`."""
    return next(outcome.notes for outcome in outcomes if outcome.stage.name == stage)


def accuracy(network: Network, context: Context) -> dict[str, float]:
    """Return the test accuracy (percent) of `network`, in fp32; nothing where there are no test images."""
    if not context.data.sizes["test"]:
        return {}
    loader = context.data.eval_loader("test", EVAL_BATCH, context.device)
    found = evaluate(network.module, loader, context.device)
    return {top: found[top] for top in TOPS}


def compress(network: Network, context: Context, designs: Designs) -> dict[str, Any]:
    """Replace the layers of `designs`. Return them and the `accuracy` before and after as notes."""
    base = accuracy(network, context)
    decompose(network, designs)
    plain = {name: [asdict(branch) for branch in design] for name, design in designs.items()}
    return {"designs": plain, "base": base, "decomposed": accuracy(network, context)}


def rank_notes(
    stage: str, goal: Goal, ranks: Mapping[str, int], full: Mapping[str, int], ratio: float, remedy: str
) -> dict[str, Any]:
    """Return `ranks`, those of `goal`, and the `full` ranks as notes. Log the `ratio` of dense to compressed MACs, and
    warn with a `remedy` where the network grew."""
    kept, most = sum(ranks.values()), sum(full.values())
    by = "" if isinstance(goal.value, Mapping) else f"{goal} gives "
    log.info("%s: %sranks %d of %d in all, %.2fx fewer MACs", stage, by, kept, most, ratio)
    if ratio < 1:
        need = "%s: the low-rank network needs %.2fx the MACs of the dense one: %s"
        log.warning(need, stage, 1 / ratio, remedy)
    return {"ranks": dict(ranks), "full_ranks": dict(full)}


def rank_metrics(notes: Mapping[str, Any]) -> dict[str, float]:
    """Return `rank/sum` of `rank/full`, over all decomposed layers."""
    return {"rank/sum": sum(notes["ranks"].values()), "rank/full": sum(notes["full_ranks"].values())}


def rank_figure(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figure `ranks`: the full and the kept rank of each layer."""
    return {"ranks": per_layer({"full": notes["full_ranks"], "kept": notes["ranks"]}, "Rank per layer", "rank")}


def gains(notes: Mapping[str, Any], final: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracies in `notes` and what the `final` ones gained on the base, as metrics; none where there were
    no test images."""
    found: dict[str, float] = {}
    for top in notes["base"]:
        found |= {f"base/{top}": notes["base"][top], f"decomposed/{top}": notes["decomposed"][top]}
        found[f"gain/base_{top}"] = final[top] - notes["base"][top]
    return found


def over_epochs(rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> dict[str, dict[int, float]]:
    """Return by label the values of a figure of `rows` over the epochs, from 1; `names` has its name by label."""
    return {label: {epoch: row[name] for epoch, row in enumerate(rows, 1)} for label, name in names.items()}
