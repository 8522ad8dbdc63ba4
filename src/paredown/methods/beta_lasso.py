"""beta-LASSO (Neyshabur 2020, arXiv 2007.13657): one training in which weights become zero, and connections local."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown import blueprint
from paredown.description_length import Description, describe
from paredown.errors import UserError
from paredown.figures import lines, tiles
from paredown.layers.masked import Masked, MaskedLinear, maskable
from paredown.layers.sparse import MaskedSparse
from paredown.locality import first_filters, locality
from paredown.plan import Context, Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.training.beta_lasso import BetaLassoSteps, check_at_least_zero, nonzeros

log = logging.getLogger("paredown")
MEASURED, SHOWN = 256, 40  # filters of the first layer
TIMED = 32  # images at once, as `latency.batch`
FASTER = 1.1  # how many times as fast a sparse matrix must be


@dataclass(frozen=True)
class BetaLasso(Method):
    """The knobs of beta-LASSO; `conf/method/beta_lasso.yaml` says what each does."""

    decay_conv: float = 1e-5
    decay_fc: float = 1e-5
    beta: float = 50.0

    def __post_init__(self) -> None:
        check_at_least_zero(**{f"method.{name}": getattr(self, name) for name in ("decay_conv", "decay_fc", "beta")})

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """One fit without momentum or weight decay; then zeros become masks, and linear layers sparse matrices where
        that is faster. UserError for a target: no knob gives one before training."""
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
        """`locality/MEASURE` and `locality/MEASURE_z` of the first layer, over `locality/filters` of them; Theorem 2's
        `description/bits`, `description/gap` and `description/vacuous`, 1 where the gap says nothing."""
        network = outcomes[-1].network()
        notes = next(outcome.notes for outcome in outcomes if outcome.stage.name == "mask")
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
        """Non-zero weights per layer over the epochs (the paper's Fig. 3), and filters of the first layer, drawn at
        random among those with at least 20 non-zero weights (its Figs. 7 to 9)."""
        rows, network = outcomes[0].history, outcomes[-1].network()
        names = [name for name in rows[0] if name.startswith("nonzero/")]
        curves = {
            name.removeprefix("nonzero/"): {epoch: row[name] for epoch, row in enumerate(rows, 1)} for name in names
        }
        filters = first_filters(network.module, network.input_shape, SHOWN)
        return {
            "nonzeros": lines(curves, "Weights that are not zero", "epoch", "weights", log="y"),
            "first_layer_filters": tiles(filters.numpy(), "Filters of the first layer (grey: 0)"),
        }


def mask_zeros(network: Network, context: Context) -> dict[str, Any]:
    """Make every layer that has weights of exactly zero `masked`, so that they count as gone. What the network computes
    stays. Returns the non-zero weights of each layer, what Theorem 2 counts, and the number of training images."""
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


def pack(network: Network, context: Context, batch: int) -> dict[str, dict[str, float]]:
    """Let each masked linear layer ship as a sparse matrix where that is FASTER on the device at hand, timed on `batch`
    inputs. Returns both times of each layer, in milliseconds."""
    masked = {name: layer for name, layer in maskable(network.module).items() if isinstance(layer, MaskedLinear)}
    times: dict[str, dict[str, float]] = {}
    for name, layer in masked.items():
        sparse = MaskedSparse(layer, layer.mask)
        inputs = torch.randn(batch, layer.in_features, device=context.device)
        pair = {"dense": layer.deployed(), "sparse": sparse.deployed()}
        times[name] = {label: _milliseconds(plain.to(context.device), inputs) for label, plain in pair.items()}
        if times[name]["dense"] > FASTER * times[name]["sparse"]:
            blueprint.place(network, name, sparse, "sparse")
    return times


def _milliseconds(layer: nn.Module, inputs: Tensor) -> float:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # what it says of CUDA is of no use here
    from torch.utils.benchmark import Timer

    timer = Timer("layer(inputs)", globals={"layer": layer, "inputs": inputs}, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        return 1e3 * float(timer.blocked_autorange(min_run_time=0.05).median)
