"""Moves of masks: the specification's worked numbers, exact counts, draws that are uniform, and values that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.target import Goal
from paredown.surgery.moves import (
    DSR,
    SET,
    DeepR,
    Gradual,
    Layer,
    Move,
    RigL,
    draw,
    dsr_growth,
    dsr_kept,
    dsr_threshold,
    flipped,
    gradual_progress,
    rigl_fraction,
    rigl_move,
    set_drops,
)


def layer(weight: Tensor, mask: Tensor, **more: Tensor) -> Layer:
    return Layer(weight * mask, mask, ~mask, 7, **more)


def random_layers(density: float = 0.2) -> dict[str, Layer]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv": (16, 8, 3, 3), "fc": (10, 64), "small": (4, 5)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {
        name: layer(values, torch.rand(values.shape, generator=generator) < density) for name, values in drawn.items()
    }


def after(layers: Mapping[str, Layer], moves: Mapping[str, Move], seed: int) -> dict[str, Layer]:
    """What the moves leave, and a step of noise on the weights that are active."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, (kept, mask) in moves.items():
        weight = layers[name].weight * kept
        weight = (weight + 0.02 * torch.randn(weight.shape, generator=generator)) * mask
        found[name] = Layer(weight, mask, ~mask, seed)
    return found


def counts(layers: Mapping[str, Layer]) -> list[int]:
    return [int(each.mask.sum()) for each in layers.values()]


@pytest.mark.parametrize("free", [8, 100, 900, 1000])
def test_a_draw_has_its_number_of_free_places_and_follows_from_its_generator(free: int) -> None:
    places = torch.zeros(1000, dtype=torch.bool)
    places[torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:free]] = True
    for number in (0, 1, free // 8, free // 2, free):
        first, again, other = (
            draw(places.view(10, 100), number, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert int(first.sum()) == number and not (first & ~places.view(10, 100)).any()
        assert torch.equal(first, again)
        assert not 1 < number < free or not torch.equal(first, other)
    with pytest.raises(ValueError, match="of"):
        draw(places, free + 1, torch.Generator())


@pytest.mark.parametrize("number", [2, 20])  # by drawing again, and by a permutation
def test_every_free_place_is_drawn_as_often(number: int) -> None:
    places = torch.arange(60) % 3 > 0
    hits = torch.zeros(60)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        hits += draw(places, number, generator)
    expected = 4000 * number / 40
    chi = ((hits[places] - expected) ** 2 / expected).sum() / (1 - number / 40)
    assert chi < 39 + 4 * math.sqrt(2 * 39) and not hits[~places].any()


@pytest.mark.parametrize(("one_more", "expected"), [(True, [2, 11, 101]), (False, [1, 10, 100])])
def test_set_drops_as_many_as_the_authors_codes(one_more: bool, expected: list[int]) -> None:
    assert [set_drops(active, 0.1, one_more) for active in (10, 100, 1000)] == expected


@pytest.mark.parametrize("back", [False, True])
def test_set_drops_the_smallest_and_keeps_its_count(back: bool) -> None:
    layers = random_layers()
    found = SET(0.1, back=back).moves(layers, 0.5, 0.0)
    for name, (kept, mask) in found.items():
        weight, old = layers[name].weight.abs(), layers[name].mask
        dropped = old & ~kept
        assert int(mask.sum()) == int(old.sum()) and int(dropped.sum()) == set_drops(int(old.sum()), 0.1, True)
        assert weight[dropped].max() <= weight[kept].min() and not (kept & ~mask).any()
        assert back or not (mask & dropped).any()


def test_set_may_grow_where_it_dropped() -> None:
    mask = torch.ones(40, dtype=torch.bool)
    mask[0] = False
    returned = 0
    for seed in range(20):
        made = replace(layer(torch.randn(40), mask), seed=seed)
        kept, new = SET(0.25, back=True, one_more=False).moves({"": made}, 0.5, 0.0)[""]
        returned += int((new & mask & ~kept).sum())
        assert int(new.sum()) == 39 and int(kept.sum()) == 39 - 9
    assert returned > 100  # of 180: one place is silent


def test_set_by_sign_drops_its_fraction_of_each() -> None:
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4, -0.01, -0.02, -0.03, -0.04, 0, 0, 0, 0, 0, 0])
    mask = torch.arange(14) < 8
    by_sign, plain = (
        SET(0.5, by_sign=by, one_more=False).moves({"": layer(weight, mask)}, 0.5, 0.0)[""] for by in (True, False)
    )
    assert by_sign.kept.nonzero()[:, 0].tolist() == [2, 3, 6, 7]
    assert plain.kept.nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_another_seed_grows_elsewhere_and_drops_the_same() -> None:
    layers = random_layers()
    other = {name: replace(each, seed=8) for name, each in layers.items()}
    first, second = (SET().moves(each, 0.5, 0.0)["conv"] for each in (layers, other))
    assert torch.equal(first.kept, second.kept) and not torch.equal(first.mask, second.mask)


def test_set_drops_no_more_than_can_grow() -> None:
    mask = torch.ones(100, dtype=torch.bool)
    mask[:3] = False
    kept, new = SET(0.1).moves({"": layer(torch.randn(100), mask)}, 0.5, 0.0)[""]
    assert int((mask & ~kept).sum()) == 3 and int(new.sum()) == 97 and new[:3].all()
    full = layer(torch.randn(100), torch.ones(100, dtype=torch.bool))
    assert SET(0.1).moves({"": full}, 0.5, 0.0)[""].kept.all()


def test_counts_stay_over_many_moves() -> None:
    for rule, by_layer in ((SET(0.2), True), (DSR(40, 0.01), False)):
        layers, threshold = random_layers(), rule.first_threshold()
        before = counts(layers)
        for step in range(50):
            found = rule.moves(layers, step / 50, threshold)
            dropped = sum(int((layers[name].mask & ~move.kept).sum()) for name, move in found.items())
            threshold = rule.next_threshold(threshold, dropped)
            layers = after(layers, found, step)
            assert sum(counts(layers)) == sum(before) and min(counts(layers)) > 0
            assert not by_layer or counts(layers) == before
        assert by_layer or counts(layers) != before


@pytest.mark.parametrize(
    ("left", "free", "expected"),
    [
        ((30, 60, 10), (90, 90, 90), (3, 6, 1)),
        ((31, 58, 11), (90, 90, 90), (3, 6, 1)),
        ((30, 60, 10), (70, 2, 90), (6, 2, 2)),
        ((30, 0, 10), (90, 90, 90), (8, 0, 2)),
    ],
)
def test_dsr_grows_in_proportion_to_what_is_left(
    left: tuple[int, ...], free: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    found = dsr_growth(dict(zip("abc", left, strict=True)), 10, dict(zip("abc", free, strict=True)))
    assert tuple(found.values()) == expected


@pytest.mark.parametrize(("dropped", "factor"), [(661, 0.5), (660, 1), (600, 1), (540, 1), (539, 2), (0, 2)])
def test_dsr_adapts_its_threshold(dropped: int, factor: float) -> None:
    assert dsr_threshold(1e-3, dropped, 600) == pytest.approx(factor * 1e-3)
    assert DSR(600).next_threshold(1e-3, dropped) == pytest.approx(factor * 1e-3)


def test_dsr_keeps_the_largest_of_a_layer_that_would_lose_all() -> None:
    made = layer(torch.tensor([0.1, -0.3, 0.2, 9.0]), torch.tensor([True, True, True, False]))
    assert dsr_kept(made, 0.15, 1).tolist() == [False, True, True, False]
    assert dsr_kept(made, 1.0, 1).tolist() == [False, True, False, False]
    assert dsr_kept(made, 1.0, 2).tolist() == [False, True, True, False]


def test_dsr_uses_dropped_places_where_no_others_are_free() -> None:
    full = {name: layer(torch.randn(50), torch.ones(50, dtype=torch.bool)) for name in "ab"}
    found = DSR(10, 0.5).moves(full, 0.5, 0.5)
    assert all(mask.all() and not kept.all() for kept, mask in found.values())


def test_deep_r_replaces_what_changed_its_sign() -> None:
    """The specification's step: rate 0.1, gradient (2, -1, .1, -3): places 0 and 3 drop, 4 and 5 grow."""
    before, mask = torch.tensor([0.10, -0.20, 0.05, -0.01, 0, 0]), torch.arange(6) < 4
    stepped = before - 0.1 * torch.tensor([2, -1, 0.1, -3, 0, 0])
    made = layer(stepped, mask, signs=before.sign())
    assert made.weight.tolist() == pytest.approx([-0.10, -0.10, 0.04, 0.29, 0, 0])
    kept, new = DeepR().moves({"": made}, 0.5, 0.0)[""]
    assert kept.nonzero()[:, 0].tolist() == [1, 2] and new.nonzero()[:, 0].tolist() == [1, 2, 4, 5]


def test_a_weight_that_starts_from_zero_does_not_drop_at_its_first_step() -> None:
    made = layer(torch.tensor([-0.3, 0.3]), torch.ones(2, dtype=torch.bool), signs=torch.zeros(2))
    assert not flipped(made).any()
    kept, new = DeepR().moves({"": made}, 0.5, 0.0)[""]
    assert kept is new is made.mask


def test_deep_r_keeps_its_counts_where_few_places_are_silent() -> None:
    weight, mask = torch.randn(200), torch.ones(200, dtype=torch.bool)
    mask[:4] = False
    made = layer(weight, mask, signs=-(weight * mask).sign())  # every weight changed its sign
    kept, new = DeepR().moves({"": made}, 0.5, 0.0)[""]
    assert not kept.any() and int(new.sum()) == 196 and new[:4].all()


def test_rigl_drops_the_smallest_and_grows_the_largest_gradient() -> None:
    weight = torch.tensor([0.5, -0.1, 0.3, -0.7, 0, 0, 0, 0])
    gradient = torch.tensor([0, 9, 0, 0, 0.2, 0.9, 0.4, 0.1])
    mask = torch.arange(8) < 4
    kept, new = rigl_move(weight, mask, ~mask, gradient, 2)
    assert new.int().tolist() == [1, 1, 0, 1, 0, 1, 0, 0]
    assert kept.int().tolist() == [1, 1, 0, 1, 0, 0, 0, 0]  # place 1 comes back with its value


def test_rigl_grows_no_dead_place() -> None:
    mask, gradient = torch.tensor([True, True, False, False]), torch.tensor([0.0, 0, 9, 1])
    new = rigl_move(torch.tensor([1.0, 0.1, 0, 0]), mask, torch.tensor([False, False, False, True]), gradient, 1).mask
    assert new.tolist() == [True, False, False, True]


def test_rigl_anneals_by_half_a_cosine() -> None:
    assert [rigl_fraction(0.3, part) for part in (0, 1 / 3, 2 / 3, 1)] == pytest.approx([0.3, 0.225, 0.075, 0])


def test_rigl_does_not_move_by_gradients_that_are_not_finite() -> None:
    mask = torch.arange(8) < 4
    made = layer(torch.randn(8), mask, gradient=torch.tensor([1.0] * 7 + [math.inf]))
    assert RigL().moves({"": made}, 0.0, 0.0)[""].mask is mask
    assert not torch.equal(RigL(0.5).moves({"": replace(made, gradient=torch.arange(8.0))}, 0.0, 0.0)[""].mask, mask)


def test_the_sparsity_of_gradual_pruning() -> None:
    found = [0.9 * gradual_progress(step / 8) for step in range(9)]
    assert found == pytest.approx([0, 0.29707, 0.520313, 0.680273, 0.7875, 0.852539, 0.885938, 0.898242, 0.9], abs=1e-6)


@pytest.mark.parametrize(
    ("goal", "scope"),
    [(Goal("sparsity", 0.9), "global"), (Goal("sparsity", 0.9), "layer"), (Goal("speed_up", 5.0), "global")],
)
def test_gradual_pruning_nests_and_ends_exactly(goal: Goal, scope: str) -> None:
    layers = random_layers(density=2.0)
    price = {"conv": 16, "fc": 1, "small": 4}
    rule = Gradual(goal, scope, price=price)  # type: ignore[arg-type]
    whole = sum(each.mask.numel() for each in layers.values())
    for step in range(1, 21):
        found = rule.moves(layers, step / 20, 0.0)
        assert not any((move.mask & ~layers[name].mask).any() for name, move in found.items())
        layers = {name: replace(layers[name], mask=move.mask, silent=~move.mask) for name, move in found.items()}
        if goal.quantity == "sparsity":
            sparsity = 0.9 if step == 20 else 0.9 * (1 - (1 - step / 20) ** 3)
            assert sum(counts(layers)) == whole - math.floor(sparsity * whole + 0.5)
    if goal.quantity == "sparsity":
        return
    spent, most = (
        sum(price[name] * each for name, each in zip(price, numbers, strict=True))
        for numbers in (counts(layers), [each.mask.numel() for each in layers.values()])
    )
    assert most / 5 - 16 < spent <= most / 5


def test_gradual_pruning_of_what_is_sparser_already_waits() -> None:
    layers = random_layers(density=0.1)
    found = Gradual(Goal("sparsity", 0.95)).moves(layers, 0.1, 0.0)
    assert all(move.mask is layers[name].mask for name, move in found.items())


def test_gradual_pruning_keeps_the_least() -> None:
    layers = random_layers(density=2.0)
    layers["small"] = replace(layers["small"], weight=layers["small"].weight * 1e-6)
    assert not Gradual(Goal("sparsity", 0.9)).moves(layers, 1.0, 0.0)["small"].mask.any()
    found = Gradual(Goal("sparsity", 0.9), least=3).moves(layers, 1.0, 0.0)
    assert int(found["small"].mask.sum()) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SET(0.0), r"method.fraction=0.0 \(in \(0, 1\]\)"),
        (lambda: RigL(1.5), r"method.fraction=1.5 \(in \(0, 1\]\)"),
        (lambda: DSR(0), r"method.budget=0 \(at least 1\)"),
        (lambda: DeepR(-1.0), r"method.noise=-1.0 \(at least 0\)"),
    ],
)
def test_wrong_hyperparameters(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
