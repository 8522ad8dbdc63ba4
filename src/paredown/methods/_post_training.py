"""What the baselines of SVD-NAS share: a trained network is decomposed at once, and finetuned only if asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from paredown.errors import UserError
from paredown.figures import per_layer
from paredown.plan import Changes, Context, Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.surgery import design_space
from paredown.surgery.design_space import Design
from paredown.training.evaluate import evaluate

EVAL_BATCH = 256
TOPS = ("top1", "top5")


@dataclass(frozen=True)
class PostTraining(Method):
    """Train (not a network whose weights the user brought), decompose, finetune if `finetune` says for how long."""

    finetune: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        idle = [name for name, value in asdict(self.finetune).items() if value is not None and name != "epochs"]
        if idle and not self.finetune.epochs:
            raise UserError(
                f"method.finetune.{idle[0]} is set, but nothing is finetuned without method.finetune.epochs"
            )

    @abstractmethod
    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """The edit that compresses the trained network. Raises UserError for a target it cannot meet."""

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """The stages. Raises UserError where `decomposition` does."""
        first = [] if network.pretrained else [Fit("train", recipe)]
        last = [Fit("finetune", recipe.changed(self.finetune))] if self.finetune.epochs else []
        return [*first, self.decomposition(target, network), *last]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Test accuracy (percent) of the network before it was decomposed, `base/top1`, and right after,
        `decomposed/top1`; what it all gained, `gain/base_top1`; each for top5 too."""
        notes, tuned = _notes(outcomes), outcomes[-1].history
        last = {top: tuned[-1][f"test/{top}"] for top in TOPS} if tuned else notes["decomposed"]
        found: dict[str, float] = {}
        for top in TOPS:
            found |= {f"base/{top}": notes["base"][top], f"decomposed/{top}": notes["decomposed"][top]}
            found[f"gain/base_{top}"] = last[top] - notes["base"][top]
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Groups and rank of each decomposed layer."""
        designs = {name: branches[0] for name, branches in _notes(outcomes)["designs"].items()}
        curves = {what: {name: branch[what] for name, branch in designs.items()} for what in ("groups", "rank")}
        return {"designs": per_layer(curves, "Groups, and rank in each, of the decomposed layers", "number", log=True)}


def compress(
    network: Network,
    context: Context,
    designs: Mapping[str, Design],
    decompose: Callable[[Network, Mapping[str, Design]], None] = design_space.decompose,
) -> dict[str, Any]:
    """Decompose the layers of `designs`; returns them and the test accuracy (percent) before and after, as notes."""
    base = _accuracy(network, context)
    decompose(network, designs)
    plain = {name: [asdict(branch) for branch in design] for name, design in designs.items()}
    return {"designs": plain, "base": base, "decomposed": _accuracy(network, context)}


def _accuracy(network: Network, context: Context) -> dict[str, float]:
    found = evaluate(network.module, context.data.eval_loader("test", EVAL_BATCH, context.device), context.device)
    return {top: found[top] for top in TOPS}


def _notes(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    return next(outcome.notes for outcome in outcomes if isinstance(outcome.stage, Edit))
