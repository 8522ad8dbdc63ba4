"""Masks from scores: exact counts by weights and by multiply-adds, nesting, layers, and what is refused."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.masked import Masked
from paredown.surgery.saliency import magnitude
from paredown.surgery.sparsify import (
    choose,
    kept_weights,
    macs_per_weight,
    partial,
    require_kept,
    shares,
    sizes,
    sparsify,
)


def network(model: str = "resnet") -> Network:
    torch.manual_seed(0)
    if model == "local":
        local = {"family": "s", "connection": "local", "alpha": 2, "image_size": [8, 8]}
        return blueprint.create({"_target_": "paredown.models.cifar.counterparts.counterpart", **local}, (3, 8, 8))
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))


def by_magnitude(now: Network) -> dict[str, Tensor]:
    return magnitude(now.module)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.987654321, 0.99])
@pytest.mark.parametrize("model", ["resnet", "local"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_sparsity_is_met_to_the_weight(sparsity: float, model: str, scope: str) -> None:
    made = network(model)
    total = count(made.module, made.input_shape).weights
    kept = sparsify(made, by_magnitude, Target("sparsity", sparsity), scope)  # type: ignore[arg-type]
    assert sum(kept.values()) == total - math.floor(sparsity * total + 0.5)
    assert count(made.module, made.input_shape).weights == sum(kept.values())


@pytest.mark.parametrize("least", [0, 3])
def test_a_speed_up_is_the_longest_prefix_of_the_order_that_fits(least: int) -> None:
    made = network()
    dense = count(made.module, made.input_shape)
    kept = sparsify(made, by_magnitude, Target("speed_up", 7.0), least=least)
    cost = count(made.module, made.input_shape)
    dearest = max(macs_per_weight(made).values())
    assert dense.macs / 7 - dearest < cost.macs <= dense.macs / 7
    assert min(kept.values()) >= least


def test_the_weights_that_stay_are_the_largest() -> None:
    made, before = network(), magnitude(network().module)
    sparsify(made, by_magnitude, Target("sparsity", 0.9))
    layers = {name: layer for name, layer in made.module.named_modules() if isinstance(layer, Masked)}
    assert layers.keys() == before.keys()
    stay = torch.cat([before[name][layer.mask] for name, layer in layers.items()])
    gone = torch.cat([before[name][~layer.mask] for name, layer in layers.items()])
    assert stay.min() >= gone.max()


def test_pruning_again_nests() -> None:
    made = network()
    sparsify(made, by_magnitude, Target("sparsity", 0.5))
    first = {name: layer.mask.clone() for name, layer in made.module.named_modules() if isinstance(layer, Masked)}
    sparsify(made, lambda now: {name: -values for name, values in by_magnitude(now).items()}, Target("sparsity", 0.9))
    for name, mask in first.items():
        layer = made.module.get_submodule(name)
        assert isinstance(layer, Masked) and not (layer.mask & ~mask).any()


def test_rounds_shrink_by_one_factor_and_score_what_is_left() -> None:
    made, seen = network(), []

    def scores(now: Network) -> dict[str, Tensor]:
        layers = [layer for layer in now.module.modules() if isinstance(layer, Masked)]
        seen.append(sum(layer.active_weights() for layer in layers))
        return by_magnitude(now)

    total = sum(sizes(made).values())
    kept = sparsify(made, scores, Target("sparsity", 0.9), rounds=3)
    assert seen == [total, *(kept_weights(total, 1 - 0.1 ** (step / 3)) for step in (1, 2))]
    assert sum(kept.values()) == kept_weights(total, 0.9)
    assert partial(Target("speed_up", 8), 1 / 3).value == pytest.approx(2)


def test_least_keeps_weights_in_each_layer_within_the_same_total(caplog: pytest.LogCaptureFixture) -> None:
    def none_for_one(now: Network) -> dict[str, Tensor]:
        found = by_magnitude(now)
        return found | {next(iter(found)): torch.zeros_like(next(iter(found.values())))}

    with caplog.at_level(logging.WARNING):
        dead = sparsify(network(), none_for_one, Target("sparsity", 0.9))
    assert "2 layers keep no weight: conv, fc (method.least=1 keeps one in each)" in caplog.text
    alive = sparsify(network(), none_for_one, Target("sparsity", 0.9), least=5)
    assert min(dead.values()) == 0 and min(alive.values()) == 5
    assert sum(dead.values()) == sum(alive.values())


def test_scores_that_are_not_finite_are_one_line_with_the_layer() -> None:
    def broken(now: Network) -> dict[str, Tensor]:
        found = by_magnitude(now)
        list(found.values())[2].flatten()[0] = math.nan
        return found

    with pytest.raises(UserError, match=r"scores of layer '.+' are not finite"):
        sparsify(network(), broken, Target("sparsity", 0.9))


@pytest.mark.parametrize(
    ("target", "scope", "least", "message"),
    [
        (Target("sparsity", 0.999999), "global", 0, "keeps 0 of"),
        (Target("sparsity", 0.9995), "layer", 0, "method.scope=layer cannot reach sparsity=0.9995: .* would keep 0 of"),
        (Target("sparsity", 0.99), "global", 1000, "method.least=1000 needs"),
        (Target("speed_up", 3.0), "layer", 0, "method.scope=layer takes sparsity=, not speed_up=3"),
    ],
)
def test_what_cannot_be_reached_is_refused(target: Target, scope: str, least: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_kept(network(), target, scope, least)  # type: ignore[arg-type]


def test_shares_are_exact_in_their_sum_and_capped() -> None:
    assert shares({"a": 3.0, "b": 6.0, "c": 1.0}, 10, {"a": 9, "b": 9, "c": 9}) == {"a": 3, "b": 6, "c": 1}
    assert shares({"a": 3.1, "b": 5.8, "c": 1.1}, 10, {"a": 9, "b": 9, "c": 9}) == {"a": 3, "b": 6, "c": 1}
    assert shares({"a": 3.0, "b": 6.0, "c": 1.0}, 10, {"a": 70, "b": 2, "c": 90}) == {"a": 5, "b": 2, "c": 3}


def test_many_rounds_by_layer_are_exact_though_shares_of_a_layer_may_rise() -> None:
    sizes = {"a": 7, "b": 11, "c": 13}
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(size, generator=generator) for name, size in sizes.items()}
    rose = False
    for step in range(1, 95):
        target = Target("sparsity", step / 100)
        counts = shares(
            {name: (1 - target.value) * size for name, size in sizes.items()}, kept_weights(31, target.value), sizes
        )
        rose |= any(number > int((~scores[name].isneginf()).sum()) for name, number in counts.items())
        masks = choose(scores, sizes, target, "layer", 0, {})
        assert sum(int(mask.sum()) for mask in masks.values()) == kept_weights(31, target.value)
        scores = {name: values.masked_fill(~masks[name], -math.inf) for name, values in scores.items()}
    assert rose
    with pytest.raises(UserError, match="cannot keep 28 weights: 2 may stay"):
        choose(scores, sizes, Target("sparsity", 0.1), "layer", 0, {})
