"""beta-LASSO (Neyshabur 2020, arXiv 2007.13657): one training in which weights become zero, and connections local."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from paredown.analysis.description_length import Description, describe
from paredown.analysis.locality import first_filters, locality
from paredown.core import blueprint
from paredown.core.constraints import NonNegative
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost.latency import in_turns, medians
from paredown.frontier.plots import lines, tiles
from paredown.layers.masked import Masked, MaskedLinear, maskable
from paredown.layers.sparse import MaskedSparse
from paredown.methods.families import notes_of, over_epochs
from paredown.training.hooks.beta_lasso import BetaLassoSteps, nonzeros

log = logging.getLogger("paredown")
MEASURED, SHOWN = 256, 40  # filters of the first layer
TIMED = 32  # images at once, as `latency.batch`
TIMING_SECONDS = 0.1  # for each layer, dense and sparse together
FASTER = 1.1  # how many times as fast a sparse matrix must be


@dataclass(frozen=True)
class BetaLasso(Method):
    """The hyperparameters of beta-LASSO; `conf/method/beta_lasso.yaml` explains each."""

    decay_conv: NonNegative = 1e-5
    decay_fc: NonNegative = 1e-5
    beta: NonNegative = 50.0

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Plan one fit without momentum or weight decay; then zeros become masks, and linear layers sparse matrices
        where that is faster. Raise UserError for a target: no hyperparameter determines the sparsity beforehand."""
        if target:
            raise UserError(
                f"method beta_lasso cannot aim at {target}: how many weights stay is known after training. Steer it by "
                "lambda (method.decay_conv, method.decay_fc) and method.beta: larger ones leave fewer"
            )
        plain = replace(recipe, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0)
        if plain != recipe:
            log.info("beta_lasso: the recipe's optimizer, momentum and weight decay are left out: it has its own step")
        steps = BetaLassoSteps(self.decay_conv, self.decay_fc, self.beta)
        return [Fit("train", plain, (steps,)), Edit("mask", mask_zeros), Edit("pack", pack, {"batch": TIMED})]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return `locality/MEASURE` and `locality/MEASURE_z` over `locality/filters` filters of the first layer, and
        Theorem 2's `description/bits`, `description/gap` and `description/vacuous` (1 for a gap above 1)."""
        network = outcomes[-1].network()
        notes = notes_of(outcomes, "mask")
        filters = first_filters(network.module, network.input_shape, MEASURED)
        local = locality(filters) | {"filters": float(len(filters))}
        described = Description(**notes["description"])
        gap = described.gap(notes["samples"])
        if gap > 1:
            log.info("beta_lasso: the bound of Theorem 2 is vacuous (a gap of %.2f): it ranks networks, no more", gap)
        length = {"bits": described.bits(), "gap": gap, "vacuous": float(gap > 1)}
        return {f"locality/{name}": value for name, value in local.items()} | {
            f"description/{name}": value for name, value in length.items()
        }

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Plot non-zero weights per layer over the epochs (the paper's Fig. 3), and filters of the first layer, sampled
        among those with at least 20 non-zero weights (its Figs. 7 to 9)."""
        rows, network = outcomes[0].history, outcomes[-1].network()
        names = {name.removeprefix("nonzero/"): name for name in rows[0] if name.startswith("nonzero/")}
        filters = first_filters(network.module, network.input_shape, SHOWN)
        return {
            "nonzeros": lines(over_epochs(rows, names), "Weights that are not zero", "epoch", "weights", log="y"),
            "first_layer_filters": tiles(filters.numpy(), "Filters of the first layer (grey: 0)"),
        }


@identity("beta_lasso/mask", kinds=["masked"])
def mask_zeros(network: Network, context: Context) -> dict[str, Any]:
    """Make every layer that has weights of exactly zero `masked`, so that they count as removed; the outputs stay.
    Return the non-zero weights of each layer, what Theorem 2 counts, and the number of training images."""
    left = nonzeros(network.module)
    if not any(left.values()):
        raise UserError("beta_lasso left no weight at all: take a smaller lambda (method.decay_conv, method.decay_fc)")
    if empty := [name for name, count in left.items() if not count]:
        log.warning("beta_lasso: no weight is left in %s", ", ".join(empty))
    for name, layer in maskable(network.module).items():
        active = cast(Tensor, layer.weight) != 0
        if not active.all():
            blueprint.rewrite(network, name, "masked")
            cast(Masked, network.module.get_submodule(name)).set_mask(active)
    described = describe(network.module, network.input_shape)
    return {"nonzeros": left, "description": vars(described), "samples": context.data.sizes["train"]}


@identity("beta_lasso/pack", kinds=["sparse"])
def pack(network: Network, context: Context, batch: int) -> dict[str, dict[str, float]]:
    """Deploy each masked linear layer as a sparse matrix where that is FASTER on this device, timed on `batch` inputs.
    Return both times of each layer, in milliseconds."""
    masked = {name: layer for name, layer in maskable(network.module).items() if isinstance(layer, MaskedLinear)}
    times: dict[str, dict[str, float]] = {}
    for name, layer in masked.items():
        sparse = MaskedSparse(layer, layer.mask)
        inputs = torch.randn(batch, layer.in_features, device=context.device)
        pair = [(plain.deployed().to(context.device), inputs) for plain in (layer, sparse)]
        dense_seconds, sparse_seconds = medians(in_turns(pair, TIMING_SECONDS))
        times[name] = {"dense": 1e3 * dense_seconds, "sparse": 1e3 * sparse_seconds}
        if times[name]["dense"] > FASTER * times[name]["sparse"]:
            blueprint.place(network, name, sparse, "sparse")
    return times
