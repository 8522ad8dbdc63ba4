"""SVD training (Yang et al. 2020, arXiv 2004.09031): convolutions trained as U diag(|s|) V with orthogonal factors and
sparse singular values, pruned by energy, finetuned at low rank."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from paredown.core import blueprint
from paredown.core.constraints import Energy, NonNegative
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.progress import each
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.frontier.plots import by_layer, lines
from paredown.layers.factorised.forms import Factorisation, full_rank, kernel_shape
from paredown.layers.factorised.low_rank import decompose, low_rank_layers
from paredown.methods.families import EVAL_BATCH, TOPS, notes_of, over_epochs, rank_figure, rank_metrics, rank_notes
from paredown.methods.low_rank.papers import FORMS, Form
from paredown.surgery.factorise import Select, convolutions, dense_twin, layer
from paredown.surgery.rank_budget import DesignCost, Designs, ranks_at, reaching, require_reach, uniform
from paredown.training.evaluate import evaluate
from paredown.training.hooks.factor_penalties import FactorOrthogonality, SingularValueSparsity

log = logging.getLogger("paredown")
COLLAPSE = 5.0  # points of top-1: the drop at which the line search holds the accuracy to have collapsed
# of the line search; published are 2e-8 to 0.05 with Hoyer, 0.005 to 0.3 with L1 and 0.18 to 0.61 without a regularizer
CANDIDATES = (
    *(digit * 10.0**power for power in range(-8, -1) for digit in (1, 2, 5)),
    *(percent / 100 for percent in range(10, 95, 5)),
)


@dataclass(frozen=True)
class SVDTraining(Method):
    """The hyperparameters of SVD training, explained in `conf/method/svd_training.yaml`."""

    form: Form = "spatial"
    regularizer: Literal["hoyer", "l1", "hoyer_square", "none"] = "hoyer"
    decay: NonNegative = 0.03
    energy: Energy | Literal["auto"] = "auto"
    orthogonality: NonNegative = 1.0
    keep_orthogonality: bool = True
    init: Literal["random", "dense", "pretrained"] = "random"
    select: Select = "all"
    basis: Literal["learned", "exact"] = "learned"
    fallback_dense: bool = False
    pretrain: RecipeOverrides = field(default_factory=RecipeOverrides)
    finetune: RecipeOverrides = field(default_factory=RecipeOverrides)

    @property
    def factorisation(self) -> Factorisation:
        """The factorisation that the paper calls `form`."""
        return FORMS[self.form]

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages: decompose, train at full rank, sparsify, prune, finetune. Raise UserError for a target
        beside an energy or out of reach, and for random factors in place of brought weights."""
        names = list(convolutions(network.module, self.select))
        if target and self.energy != "auto":
            raise UserError(f"{target} finds the energy itself: leave out method.energy={self.energy:g}")
        if network.pretrained and self.init == "random":
            raise UserError("method.init=random throws away the weights of model.weights: take method.init=dense")
        if target:
            rank_1 = dict.fromkeys(names, 1)
            require_reach(
                network, target, designs(DesignCost(network), rank_1, self.factorisation, self.fallback_dense)
            )
        orthogonality = FactorOrthogonality(self.orthogonality)
        first: list[Stage] = [Fit("train", recipe)] if self.init == "pretrained" else []
        start = {"factorisation": self.factorisation, "names": names, "random": self.init == "random"}
        stages = [
            *first,
            Edit("decompose", factorise, start),
            Fit("full_rank", recipe.changed(self.pretrain), (orthogonality,)),
        ]
        if self.regularizer != "none" and self.decay:
            sparsity = SingularValueSparsity(self.decay, self.regularizer)
            stages.append(Fit("sparsify", recipe, (orthogonality, sparsity)))
        goal = Goal.of(target) if target else Goal("energy", self.energy)
        settings: dict[str, Any] = {"goal": goal, "basis": self.basis, "fallback_dense": self.fallback_dense}
        if goal.value == "auto":
            settings["candidates"] = CANDIDATES
        kept = orthogonality if self.keep_orthogonality else FactorOrthogonality(0.0)
        return [*stages, Edit("prune", prune, settings), Fit("finetune", recipe.changed(self.finetune), (kept,))]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return `energy`, `rank/sum` of `rank/full`, and the accuracy at full rank, the base of the paper's gains:
        `base/top1` and `gain/base_top1` at the last epochs, `base/best_top1` and `gain/base_best_top1` at the best;
        the same for top5; none of these without test images. Those of the last epochs are of deployed networks in
        fp32."""
        done, notes = {outcome.stage.name: outcome for outcome in outcomes}, notes_of(outcomes, "prune")
        found = {"energy": notes["energy"]} | rank_metrics(notes)
        measured = {name: done[name].accuracy() for name in ("full_rank", "finetune")}
        for top in [top for top in TOPS if top in measured["finetune"]]:
            last = {name: values[top] for name, values in measured.items()}
            best = {name: max(last[name], *(row[f"test/{top}"] for row in done[name].history)) for name in measured}
            found |= {f"base/{top}": last["full_rank"], f"base/best_{top}": best["full_rank"]}
            found[f"gain/base_{top}"] = last["finetune"] - last["full_rank"]
            found[f"gain/base_best_{top}"] = best["finetune"] - best["full_rank"]
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the ranks, the summed ranks and the singular values over the training, and the line search if any."""
        notes = notes_of(outcomes, "prune")
        ranks, spectra = _ranks_over_training(outcomes), _spectra(outcomes)
        figures = rank_figure(notes) | {
            "rank_over_training": lines(
                ranks, "Summed rank that removing this energy would leave", "epoch over all fits", "rank"
            ),
            "singular_values": by_layer(spectra, "Singular values, largest first", "index", "singular value"),
        }
        if notes["search"]:
            found = {"not finetuned": {row["energy"]: row["top1"] for row in notes["search"] if row["energy"]}}
            figures["energy_search"] = lines(
                found, "Line search for the energy", "energy removed", "top-1 (%)", log="x"
            )
        return figures


@identity("svd_training/factorise", kinds=["low_rank"])
def factorise(
    network: Network, context: Context, factorisation: Factorisation, names: Sequence[str], random: bool
) -> None:
    """Replace the convolutions `names` by factorised layers of full rank: their SVDs, or `random` factors."""
    for name in names:
        conv = layer(network, name)
        arguments: dict[str, Any] = {
            "factorisation": factorisation,
            "rank": full_rank(kernel_shape(conv), factorisation),
        }
        if random:
            blueprint.rewrite(network, name, "low_rank", **arguments)
        else:
            blueprint.place(network, name, decompose(conv, **arguments), "low_rank", **arguments)


@identity("svd_training/prune", kinds=["low_rank"])
def prune(
    network: Network,
    context: Context,
    goal: Goal,
    basis: Literal["learned", "exact"],
    fallback_dense: bool,
    candidates: Sequence[float] = (),
) -> dict[str, Any]:
    """Truncate every factorised layer to its rank at one energy: that of `goal`, that of a line search over
    `candidates` ("auto"), or the least that reaches its target. Return the energy, the ranks, the rows of the search
    and the `images` that it has seen as notes."""
    layers = low_rank_layers(network.module)
    if basis == "exact":
        for low_rank in layers.values():
            low_rank.set_weight_(low_rank.effective_weight())
    spectra, dense = {name: low_rank.s.detach().cpu() for name, low_rank in layers.items()}, dense_twin(network)
    factorisation, macs = next(iter(layers.values())).factorisation, DesignCost(dense)
    at_ranks = partial(designs, macs, factorisation=factorisation, fallback_dense=fallback_dense)
    search: list[dict[str, float]] = []
    if target := goal.target():
        energy = reaching(target, dense, spectra, at_ranks)
    elif goal.value == "auto":
        search = _search(network, context, candidates, spectra, macs, at_ranks)
        energy = max(row["energy"] for row in search if search[0]["top1"] - row["top1"] < COLLAPSE)
    else:
        energy = goal.number()
    ranks = ranks_at(spectra, "energy", energy)
    cut(network, ranks, at_ranks(ranks))
    full = {name: low_rank.full_rank for name, low_rank in layers.items()}
    ratio = macs.ratio(at_ranks(ranks))
    notes = rank_notes("prune", Goal("energy", energy), ranks, full, ratio, "take more energy")
    images = len(search) * context.data.sizes[context.data.eval_splits[0]] if search else 0
    return {"energy": energy, "search": search, "images": images} | notes


def designs(macs: DesignCost, ranks: Mapping[str, int], factorisation: Factorisation, fallback_dense: bool) -> Designs:
    """Return the designs of `ranks`; with `fallback_dense` only those that need fewer `macs` than the dense layer."""
    found = uniform(ranks, factorisation)
    return macs.cheaper(found) if fallback_dense else found


def cut(network: Network, ranks: Mapping[str, int], factorised: Designs) -> None:
    """Truncate each factorised layer to its rank; one that is not in `factorised` becomes one dense convolution."""
    for name, low_rank in low_rank_layers(network.module).items():
        smaller, rank = low_rank.truncated(ranks[name]), ranks[name]
        if name in factorised:
            blueprint.place(network, name, smaller, "low_rank", factorisation=low_rank.factorisation, rank=rank)
        else:
            network.module.set_submodule(name, smaller.plain_dense())
            del network.blueprint[name]


def _search(
    network: Network,
    context: Context,
    candidates: Sequence[float],
    spectra: Mapping[str, Tensor],
    macs: DesignCost,
    at_ranks: Callable[[Mapping[str, int]], Designs],
) -> list[dict[str, float]]:
    """Measure top1 (percent), not finetuned, and the speed-up at rising energies from 0 on, until two in a row have
    collapsed; on the validation images if there are any, else on the test images, as in the paper."""
    split = context.data.eval_splits[0]
    if split == "test":
        log.warning("prune: no images are held out (dataset.validation=0), so the energy is chosen on the test images")
    loader = context.data.eval_loader(split, EVAL_BATCH, context.device)
    rows: list[dict[str, float]] = []
    for energy in each((0.0, *candidates), "search", "energies"):
        trial, ranks = copy.deepcopy(network), ranks_at(spectra, "energy", energy)
        cut(trial, ranks, at_ranks(ranks))
        top1 = evaluate(trial.module, loader, context.device)["top1"]
        rows.append({"energy": energy, "top1": top1, "speed_up": macs.ratio(at_ranks(ranks))})
        if all(rows[0]["top1"] - row["top1"] >= COLLAPSE for row in rows[-2:]):
            break
    return rows


def _spectra(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[float]]]:
    """Return by layer and stage the singular values, largest first."""
    found: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        for name, low_rank in low_rank_layers(outcome.network().module).items():
            sizes = low_rank.s.detach().abs().sort(descending=True).values
            found.setdefault(name, {})[outcome.stage.name] = sizes.tolist()
    return found


def _ranks_over_training(outcomes: Sequence[Outcome]) -> dict[str, dict[int, float]]:
    """Return the summed rank that pruning at each of a few energies would leave, by epoch over all fits."""
    rows = [row for outcome in outcomes for row in outcome.history if any(name.startswith("rank/") for name in row)]
    names = [name for name in rows[0] if name.startswith("rank/")]
    return over_epochs(rows, {name.removeprefix("rank/at_"): name for name in names})
