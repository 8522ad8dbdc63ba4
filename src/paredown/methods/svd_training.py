"""SVD training (Yang et al. 2020, arXiv 2004.09031): convolutions trained as U diag(|s|) V with orthogonal factors and
sparse singular values, pruned by energy, finetuned at low rank."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from paredown import blueprint
from paredown.errors import UserError
from paredown.figures import by_layer, lines, per_layer
from paredown.layers.low_rank import Form, decompose, full_rank
from paredown.plan import Changes, Context, Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.surgery.low_rank import (
    RankCost,
    Select,
    convolutions,
    dense_twin,
    energy_within,
    low_rank_layers,
    ranks_at,
    target_cost,
)
from paredown.training.evaluate import evaluate
from paredown.training.factor_penalties import FactorOrthogonality, SingularValueSparsity

log = logging.getLogger("paredown")
COLLAPSE = 5.0  # points of top-1: the drop at which the line search holds the accuracy to have collapsed
SEARCH_BATCH = 256
CANDIDATES = [digit * 10.0**power for power in range(-8, 0) for digit in (1, 2, 5)]


@dataclass(frozen=True)
class SVDTraining(Method):
    """The knobs of SVD training; `conf/method/svd_training.yaml` says what each does."""

    form: Form = "spatial"
    regularizer: Literal["hoyer", "l1", "hoyer_square", "none"] = "hoyer"
    decay: float = 0.03
    energy: float | Literal["auto"] = "auto"
    orthogonality: float = 1.0
    keep_orthogonality: bool = True
    init: Literal["random", "dense", "pretrained"] = "random"
    select: Select = "all"
    basis: Literal["learned", "exact"] = "learned"
    fallback_dense: bool = False
    pretrain: Changes = field(default_factory=Changes)
    finetune: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        for name in ("decay", "orthogonality"):
            if getattr(self, name) < 0:
                raise UserError(f"method.{name}={getattr(self, name):g} is below 0")
        if self.energy != "auto" and not 0 <= self.energy < 1:
            raise UserError(
                f"method.energy={self.energy:g} is not in [0, 1): it is the fraction of squared singular values removed"
            )

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Decompose, train at full rank, sparsify, prune, finetune. UserError for a target with an energy of one's own,
        or out of reach at rank 1."""
        names = list(convolutions(network.module, self.select))
        if target and self.energy != "auto":
            raise UserError(f"{target} finds the energy itself: leave out method.energy={self.energy:g}")
        if network.pretrained and self.init == "random":
            raise UserError("method.init=random throws away the weights of model.weights: take method.init=dense")
        if target:
            target_cost(network, self.form, names, target, self.fallback_dense)
        orthogonality = FactorOrthogonality(self.orthogonality)
        first: list[Stage] = [Fit("train", recipe)] if self.init == "pretrained" else []
        start = {"form": self.form, "names": names, "random": self.init == "random"}
        stages = [
            *first,
            Edit("decompose", factorise, start),
            Fit("full_rank", recipe.changed(self.pretrain), (orthogonality,)),
        ]
        if self.regularizer != "none" and self.decay:
            sparsity = SingularValueSparsity(self.decay, self.regularizer)
            stages.append(Fit("sparsify", recipe, (orthogonality, sparsity)))
        until = {target.quantity: target.value} if target else {"energy": self.energy}
        settings = {"form": self.form, "until": until, "basis": self.basis, "fallback_dense": self.fallback_dense}
        kept = orthogonality if self.keep_orthogonality else FactorOrthogonality(0.0)
        return [*stages, Edit("prune", prune, settings), Fit("finetune", recipe.changed(self.finetune), (kept,))]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """`energy`, `rank/sum` of `rank/full`, and the accuracy at full rank, the base of the paper's gains:
        `base/top1` and `gain/base_top1` at the last epochs, `base/best_top1` and `gain/base_best_top1` at the best;
        the same for top5."""
        done = {outcome.stage.name: outcome for outcome in outcomes}
        notes = done["prune"].notes
        found = {
            "energy": notes["energy"],
            "rank/sum": sum(notes["ranks"].values()),
            "rank/full": sum(notes["full_ranks"].values()),
        }
        for top in ("top1", "top5"):
            base, tuned = ([row[f"test/{top}"] for row in done[name].history] for name in ("full_rank", "finetune"))
            found |= {f"base/{top}": base[-1], f"base/best_{top}": max(base)}
            found |= {f"gain/base_{top}": tuned[-1] - base[-1], f"gain/base_best_{top}": max(tuned) - max(base)}
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Ranks per layer; summed ranks and singular values over the training; the line search, if there was one."""
        notes = next(outcome.notes for outcome in outcomes if outcome.stage.name == "prune")
        over_epochs, spectra = _ranks_over_training(outcomes), _spectra(outcomes)
        figures = {
            "ranks": per_layer({"full": notes["full_ranks"], "kept": notes["ranks"]}, "Rank per layer", "rank"),
            "rank_over_training": lines(
                over_epochs, "Summed rank that removing this energy would leave", "epoch over all fits", "rank"
            ),
            "singular_values": by_layer(spectra, "Singular values, largest first", "index", "singular value"),
        }
        if notes["search"]:
            found = {"not finetuned": {row["energy"]: row["top1"] for row in notes["search"] if row["energy"]}}
            figures["energy_search"] = lines(
                found, "Line search for the energy", "energy removed", "top-1 (%)", log="x"
            )
        return figures


def factorise(network: Network, context: Context, form: Form, names: Sequence[str], random: bool) -> None:
    """Make the convolutions `names` full-rank factorised layers: from their SVD, or `random` factors."""
    for name in names:
        conv = network.module.get_submodule(name)
        rank = full_rank(conv, form)  # type: ignore[arg-type]
        if random:
            blueprint.rewrite(network, name, "low_rank", form=form, rank=rank)
        else:
            blueprint.place(network, name, decompose(conv, form), "low_rank", form=form, rank=rank)


def prune(
    network: Network,
    context: Context,
    form: Form,
    until: Mapping[str, Any],
    basis: Literal["learned", "exact"],
    fallback_dense: bool,
) -> dict[str, Any]:
    """Cut every factorised layer to its rank at one energy: `until` gives it ({"energy": e}), asks for the line search
    ({"energy": "auto"}), or for the least that reaches a target ({"speed_up": 4}). Returns energy, ranks and search."""
    layers = low_rank_layers(network.module)
    if basis == "exact":
        for layer in layers.values():
            layer.become(layer.effective_weight())
    spectra = {name: layer.s.detach().cpu() for name, layer in layers.items()}
    macs = RankCost.of(dense := dense_twin(network), form, list(layers), fallback=fallback_dense)
    (goal, value), search = next(iter(until.items())), []
    if goal != "energy":
        target = Target(goal, value)  # type: ignore[arg-type]
        energy = energy_within(spectra, *target_cost(dense, form, list(layers), target, fallback_dense))
    elif value == "auto":
        search = _search(network, context, spectra, macs)
        energy = max(row["energy"] for row in search if search[0]["top1"] - row["top1"] < COLLAPSE)
    else:
        energy = value
    ranks = ranks_at(spectra, energy)
    cut(network, ranks, macs)
    _tell(energy, ranks, macs)
    return {"energy": energy, "ranks": ranks, "full_ranks": dict(macs.highest), "search": search}


def cut(network: Network, ranks: Mapping[str, int], macs: RankCost) -> None:
    """Keep the largest `ranks` singular values of each factorised layer, or make it one dense convolution where `macs`
    falls back to it."""
    for name, layer in low_rank_layers(network.module).items():
        smaller = layer.truncated(ranks[name])
        if macs.stays_dense(name, ranks[name]):
            network.module.set_submodule(name, smaller.plain_dense())
            del network.blueprint[name]
        else:
            blueprint.place(network, name, smaller, "low_rank", form=layer.form, rank=ranks[name])


def _search(
    network: Network, context: Context, spectra: Mapping[str, Tensor], macs: RankCost
) -> list[dict[str, float]]:
    """top1 (percent), not finetuned, and speed-up for rising energies from 0 on, until two in a row have collapsed; on
    the validation images where some are held out, else on the test images, as the paper does."""
    split = context.data.eval_splits[0]
    if split == "test":
        log.warning("prune: no images are held out (dataset.validation=0), so the energy is chosen on the test images")
    loader = context.data.eval_loader(split, SEARCH_BATCH, context.device)
    rows: list[dict[str, float]] = []
    for energy in (0.0, *CANDIDATES):
        trial = copy.deepcopy(network)
        cut(trial, ranks := ranks_at(spectra, energy), macs)
        top1 = evaluate(trial.module, loader, context.device)["top1"]
        rows.append({"energy": energy, "top1": top1, "speed_up": macs.ratio(ranks)})
        if all(rows[0]["top1"] - row["top1"] >= COLLAPSE for row in rows[-2:]):
            break
    return rows


def _tell(energy: float, ranks: Mapping[str, int], macs: RankCost) -> None:
    kept, full, ratio = sum(ranks.values()), sum(macs.highest.values()), macs.ratio(ranks)
    log.info("prune: energy %.3g keeps %d of %d singular values, %.2fx fewer MACs", energy, kept, full, ratio)
    if ratio < 1:
        log.warning("prune: the low-rank network needs %.2fx the MACs of the dense one: take more energy", 1 / ratio)


def _spectra(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[float]]]:
    """By layer and stage, the singular values, largest first."""
    found: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        for name, layer in low_rank_layers(outcome.network().module).items():
            sizes = layer.s.detach().abs().sort(descending=True).values
            found.setdefault(name, {})[outcome.stage.name] = sizes.tolist()
    return found


def _ranks_over_training(outcomes: Sequence[Outcome]) -> dict[str, dict[float, float]]:
    """The summed rank that pruning at each of a few energies would leave, by epoch over all fits."""
    rows = [row for outcome in outcomes for row in outcome.history if any(name.startswith("rank/") for name in row)]
    names = [name for name in rows[0] if name.startswith("rank/")]
    return {name.removeprefix("rank/at_"): {epoch: row[name] for epoch, row in enumerate(rows, 1)} for name in names}
