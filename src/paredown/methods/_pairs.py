"""What Jaderberg's and Zhang's methods share: a trained network whose convolutions become pairs, then finetuned."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paredown import blueprint
from paredown.errors import UserError, nearest
from paredown.figures import per_layer
from paredown.layers import conv_pair
from paredown.layers._factors import Form, full_rank, matrix
from paredown.plan import Changes, Context, Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.surgery.low_rank import (
    RankCost,
    Select,
    convolutions,
    dense_twin,
    energy_within,
    ranks_at,
    target_cost,
)
from paredown.training.evaluate import evaluate

log = logging.getLogger("paredown")
EVAL_BATCH = 256
Within = Callable[[Mapping[str, Tensor], RankCost, float], dict[str, int]]  # spectra, a cost and its limit -> ranks


@dataclass(frozen=True)
class PairMethod(Method):
    """Train, decompose into pairs, finetune. The ranks follow from a target, `energy` or `ranks`, one of them."""

    energy: float | None = None
    ranks: dict[str, int] | None = None
    select: Select = "all"
    images: int = 3000
    positions: int = 10
    finetune: Changes = field(default_factory=lambda: Changes(epochs=4, milestones=(0.5,)))
    form: ClassVar[Form]

    def __post_init__(self) -> None:
        if self.energy is not None and not 0 <= self.energy < 1:
            raise UserError(
                f"method.energy={self.energy:g} is not in [0, 1): it is the fraction of squared singular values removed"
            )
        least = (
            ("images", self.images, 2),
            ("positions", self.positions, 1),
            ("finetune.epochs", self.finetune.epochs, 0),
        )
        for name, value, lowest in least:
            if value is not None and value < lowest:
                raise UserError(f"method.{name}={value} is below {lowest}")

    @abstractmethod
    def decomposition(self, network: Network, names: list[str], until: dict[str, Any]) -> Edit:
        """The edit that makes the convolutions `names` pairs of the ranks that `until` leads to."""

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Train, decompose, finetune (not for 0 epochs). UserError unless one of a target, `energy` and `ranks` is
        given; for a target out of reach at rank 1; for ranks of no such layer, or out of bounds; for nothing to do."""
        names = list(convolutions(network.module, self.select))
        until = self._until(target, network, names)
        edit = self.decomposition(network, list(until.get("ranks", names)), until)
        stages: list[Stage] = [Fit("train", recipe), edit]
        return stages if self.finetune.epochs == 0 else [*stages, Fit("finetune", recipe.changed(self.finetune))]

    def _until(self, target: Target | None, network: Network, names: list[str]) -> dict[str, Any]:
        name = type(self).__name__.lower()
        given = {"energy": self.energy, "ranks": self.ranks} | ({target.quantity: target.value} if target else {})
        found = {key: value for key, value in given.items() if value is not None}
        if len(found) != 1:
            raise UserError(
                f"{name} takes its ranks from one of sparsity=, speed_up=, method.energy= and method.ranks=, "
                f"got {', '.join(f'{key}={value}' for key, value in found.items()) or 'none'}"
            )
        if target:
            target_cost(network, self.form, names, target)
        for layer, rank in (self.ranks or {}).items():
            if layer not in names:
                raise UserError(f"method.ranks: no convolution {layer!r} to decompose: {nearest(layer, names)}")
            most = full_rank(network.module.get_submodule(layer), self.form)  # type: ignore[arg-type]
            if not 1 <= rank <= most:
                raise UserError(f"method.ranks: {layer} has ranks from 1 to {most} in {self.form} form, not {rank}")
        return found

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """`decomposed/top1`, the test accuracy (percent) before finetuning, and `rank/sum` of `rank/full`."""
        notes = _notes(outcomes)
        return {
            "decomposed/top1": notes["top1"]["test"],
            "rank/sum": sum(notes["ranks"].values()),
            "rank/full": sum(notes["full_ranks"].values()),
        }

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Ranks per layer, and how far the decomposed layers' responses are from the dense network's."""
        notes = _notes(outcomes)
        title, unit = "Error of the responses on sampled training images", "relative squared error"
        errors = {"response_error": per_layer(notes["errors"], title, unit)} if "errors" in notes else {}
        ranks = {"full": notes["full_ranks"], "kept": notes["ranks"]}
        return {"ranks": per_layer(ranks, "Rank per layer", "rank")} | errors


def _notes(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    return next(outcome.notes for outcome in outcomes if isinstance(outcome.stage, Edit))


def truncate(
    network: Network, context: Context, form: Form, names: Sequence[str], until: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the convolutions `names` pairs by the truncated SVD of their weights. `until` gives the ranks ({"ranks":
    {name: rank}}), the energy each layer loses, or a target ({"speed_up": 4}) for the least energy that reaches it."""
    products = {name: product(network, name, form) for name in names}
    ranks, found = choose(network, form, until, singular_values(products), by_energy)
    for name in names:
        bias: Any = network.module.get_submodule(name).bias
        put_pair(network, name, form, products[name], ranks[name], bias)
    return found | top1(network, context)


def product(network: Network, name: str, form: Form) -> Tensor:
    """The matrix of the convolution `name`, in float64 on the CPU."""
    conv: nn.Conv2d = network.module.get_submodule(name)  # type: ignore[assignment]
    return matrix(conv.weight.detach().cpu().double(), form)


def singular_values(products: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of each matrix, largest first."""
    return {name: torch.linalg.svdvals(values) for name, values in products.items()}


def choose(
    network: Network, form: Form, until: Mapping[str, Any], spectra: Mapping[str, Tensor], within: Within
) -> tuple[dict[str, int], dict[str, Any]]:
    """The rank of each layer of `spectra` that `until` (see `truncate`) leads to, `within` deciding under a target;
    and what is to be noted of them. `network` still has its dense layers."""
    cost = RankCost.of(dense := dense_twin(network), form, list(spectra))
    (goal, value) = next(iter(until.items()))
    if goal == "ranks":
        ranks = dict(value)
    elif goal == "energy":
        ranks = ranks_at(spectra, value)
    else:
        ranks = within(spectra, *target_cost(dense, form, list(spectra), Target(goal, value)))  # type: ignore[arg-type]
    kept, full, ratio = sum(ranks.values()), sum(cost.highest.values()), cost.ratio(ranks)
    log.info("decompose: ranks %d of %d in all, %.2fx fewer MACs", kept, full, ratio)
    if ratio < 1:
        log.warning("decompose: the pairs need %.2fx the MACs of the dense network: take lower ranks", 1 / ratio)
    return ranks, {"ranks": ranks, "full_ranks": dict(cost.highest)}


def by_energy(spectra: Mapping[str, Tensor], cost: RankCost, limit: float) -> dict[str, int]:
    """The ranks at the least energy, the same for every layer, at which `cost` is at most `limit`."""
    return ranks_at(spectra, energy_within(spectra, cost, limit))


def put_pair(network: Network, name: str, form: Form, values: Tensor, rank: int, bias: Tensor | None) -> None:
    """Put in the place of the convolution `name` the pair whose matrix (`_factors.matrix`) is the best approximation of
    `values` of `rank`, and which adds `bias` (n,). The singular values are split evenly, so that both convolutions
    train alike."""
    left, s, right = torch.linalg.svd(values, full_matrices=False)
    root = s[:rank].sqrt()
    pair = conv_pair.build(network.module.get_submodule(name), form, rank, bias is not None)
    pair.become(left[:, :rank] * root, root[:, None] * right[:rank], bias)
    blueprint.place(network, name, pair, "conv_pair", form=form, rank=rank, bias=bias is not None)


def top1(network: Network, context: Context) -> dict[str, Any]:
    """The accuracy (percent) of `network` as it is now, by split, as a note."""
    found = {}
    for split in context.data.eval_splits:
        loader = context.data.eval_loader(split, EVAL_BATCH, context.device)
        found[split] = evaluate(network.module, loader, context.device)["top1"]
    return {"top1": found}
