"""Layers with weights fixed at zero: exact through training, saving and deploying."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers.masked import MaskedConv2d, MaskedLinear, build, effective_weight, random_mask, select
from paredown.models.cifar.resnet import cifar_resnet


def masked(dense: nn.Conv2d, density: float = 0.4) -> MaskedConv2d:
    generator = torch.Generator().manual_seed(0)
    return MaskedConv2d(dense, torch.rand(dense.weight.shape, generator=generator) < density)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_removed_weights_stay_exactly_zero(kind: str, optimizer: str) -> None:
    torch.manual_seed(0)
    layer = masked(nn.Conv2d(4, 6, 3)) if kind == "conv" else masked_linear(nn.Linear(5, 7))
    kept = layer.weight.detach().clone()
    steps = {
        "sgd": lambda: torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam(layer.parameters(), 0.1, weight_decay=0.1),
    }[optimizer]()
    for _ in range(5):
        steps.zero_grad()
        layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
        steps.step()
    assert not layer.weight[~layer.mask].any()
    assert (layer.weight[layer.mask] != kept[layer.mask]).all()


def masked_linear(dense: nn.Linear) -> MaskedLinear:
    layer = build(dense)
    assert isinstance(layer, MaskedLinear)
    layer.set_mask(torch.rand(dense.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4)
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_deploys_as_one_and_both_counters_agree(bias: bool) -> None:
    dense = nn.Linear(12, 7, bias=bias)
    layer = masked_linear(dense)
    assert type(layer.deployed()) is nn.Linear
    assert torch.equal(layer.deployed().weight, dense.weight * layer.mask)
    network = nn.Sequential(nn.Flatten(), layer)
    assert prove_equal(network, deploy(network), (3, 2, 2)) < 1e-12
    cost = count(network, (3, 2, 2))
    assert cost.macs == cost.weights == int(layer.mask.sum()) == cost.params - 7 * bias
    rows = count(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 12)), layer), (48, 1, 1))
    assert rows.macs == 4 * int(layer.mask.sum())


def test_a_stray_value_under_the_mask_reaches_neither_output_nor_deployed_weight() -> None:
    layer, x = masked(nn.Conv2d(4, 6, 3)), torch.randn(1, 4, 5, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight[~layer.mask] = 7.0
    assert torch.equal(layer(x), before)
    assert not layer.deployed().weight[~layer.mask].any()
    assert torch.equal(effective_weight(layer), layer.deployed().weight)


def test_a_new_mask_removes_weights_in_place() -> None:
    layer = build(nn.Conv2d(3, 5, 3))
    buffer, whole = layer.mask, layer.weight.detach().clone()
    assert layer.active_weights() == 135
    mask = torch.rand(5, 3, 3, 3) < 0.5
    layer.set_mask(mask)
    assert layer.mask is buffer and layer.active_weights() == int(mask.sum())
    assert torch.equal(layer.weight, whole * mask)


@pytest.mark.parametrize(
    "settings",
    [{"groups": 4, "padding": 1}, {"stride": 2, "dilation": 2, "bias": False}, {"padding": "valid", "kernel_size": 1}],
)
def test_deployed_computes_the_same_and_both_counters_agree(settings) -> None:
    layer = masked(nn.Conv2d(4, 8, **({"kernel_size": 3} | settings)))
    assert type(layer.deployed()) is nn.Conv2d
    assert prove_equal(layer, deploy(layer), (4, 9, 8)) < 1e-12
    assert (
        count(nn.Sequential(layer), (4, 9, 8)).macs
        == int(layer.mask.sum()) * layer(torch.zeros(1, 4, 9, 8))[0, 0].numel()
    )


def test_building_copies_the_dense_layer_and_draws_nothing() -> None:
    dense = nn.Conv2d(3, 4, 3).half().eval()
    state = torch.get_rng_state()
    layer = build(dense)
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.training and layer.weight.dtype == torch.float16
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert dense.weight.any() and dense.bias.any()


def test_the_mask_travels_with_the_weights(tmp_path: Path) -> None:
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
    network = Network(cifar_resnet(8, in_channels=1), architecture, (1, 8, 8))
    name = "layer2.0.conv1"
    blueprint.rewrite(network, name, "masked")
    layer = network.module.get_submodule(name)
    layer.set_mask(torch.rand(layer.weight.shape) < 0.3)
    blueprint.save(network, tmp_path)
    loaded = blueprint.load(tmp_path)
    assert torch.equal(loaded.get_submodule(name).mask, layer.mask)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), network.module.eval()(x))


def test_wrong_masks_and_layers_are_one_line() -> None:
    with pytest.raises(UserError, match=r"a mask of shape \(3,\) for a weight of \(4, 3, 3, 3\)"):
        MaskedConv2d(nn.Conv2d(3, 4, 3), torch.ones(3))
    with pytest.raises(UserError, match="one of Conv2d, Linear, LocallyConnected2d, not a BatchNorm2d"):
        build(nn.BatchNorm2d(4))


def test_a_random_mask_has_its_number_of_weights_where_allowed_and_follows_from_its_seed() -> None:
    allowed = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    masks = [random_mask(allowed, 7, torch.Generator().manual_seed(seed)) for seed in (1, 1, *range(2, 400))]
    assert all(mask.shape == allowed.shape and int(mask.sum()) == 7 and not mask[~allowed].any() for mask in masks)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    shares = torch.stack(masks[1:]).double().mean(0)[allowed]  # each place equally often: five standard errors
    share = 7 / int(allowed.sum())
    assert (shares - share).abs().max() < 5 * math.sqrt(share * (1 - share) / len(masks[1:]))


# few different values, so that most scores tie; None: must not be kept
some = st.lists(st.sampled_from([None, -2.0, -0.0, 0.0, 1.0, 1.5]), min_size=1, max_size=12)


@given(st.lists(some, min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_selection_is_a_stable_descending_sort(
    layers: list[list[float | None]], least: int, data: st.DataObject
) -> None:
    scores = {str(i): torch.tensor([-math.inf if v is None else v for v in layer]) for i, layer in enumerate(layers)}
    firsts = [candidates(layer)[:least] for layer in scores.values()]
    floor, most = sum(map(len, firsts)), sum(len(candidates(layer)) for layer in scores.values())
    kept = data.draw(st.integers(floor, most))
    starts = torch.tensor([0, *(len(layer) for layer in layers)]).cumsum(0).tolist()
    first = [start + index for start, layer in zip(starts, firsts, strict=False) for index in layer]
    rest = [index for index in candidates(torch.cat(list(scores.values()))) if index not in first]
    found = torch.cat(list(select(scores, kept, least).values()))
    assert sorted(first + rest[: kept - floor]) == found.nonzero().flatten().tolist()


def candidates(scores: Tensor) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    return order[scores[order] > -math.inf].tolist()


def test_selection_gives_masks_in_the_shapes_of_the_scores_for_the_whole_network() -> None:
    torch.manual_seed(0)
    scores = {"conv": torch.rand(4, 3, 3, 3).transpose(2, 3), "fc": torch.rand(5, 7, dtype=torch.float64) + 0.5}
    masks = select(scores, 60)
    threshold = torch.cat([values.flatten().double() for values in scores.values()]).sort().values[-60]
    assert all(torch.equal(masks[name], scores[name] >= threshold) for name in scores)
    assert {name: int(mask.sum()) for name, mask in select(scores, 85, least=50).items()} == {"conv": 50, "fc": 35}


@pytest.mark.parametrize(
    ("fc", "kept", "least", "words"),
    [
        (math.nan, 2, 0, "the scores of layer 'fc' are not finite"),
        (math.inf, 2, 0, "the scores of layer 'fc' are not finite"),
        (-math.inf, 6, 0, r"cannot keep 6 weights: 5 may stay"),
        (1.0, 3, 2, r"cannot keep 3 weights: 6 may stay, and 4 must \(least=2\)"),
    ],
)
def test_a_selection_that_cannot_be_is_one_line(fc: float, kept: int, least: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        select({"conv": torch.ones(2, 2), "fc": torch.tensor([0.0, fc])}, kept, least)
    assert "\n" not in str(error.value)
