"""Layers of format 1: the present layers that they become compute what the old ones did, by formulas written out."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from paredown.core import blueprint
from paredown.core.legacy import upgrade, upgrade_layers

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def loaded(dense: nn.Module, entry: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """The layer that `entry` of format 1 becomes, with `weights` in it."""
    entries, tensors = upgrade_layers({"a.b": entry}, {f"a.b.{name}": tensor for name, tensor in weights.items()})
    arguments = {key: value for key, value in entries["a.b"].items() if key != "kind"}
    layer = blueprint._build_layer(dense, entries["a.b"]["kind"], arguments)
    blueprint.load_weights(layer, {name.removeprefix("a.b."): tensor for name, tensor in tensors.items()}, "old")
    return layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["spatial", "channel"])
def test_a_conv_pair(form: str, bias: bool) -> None:
    dense, rank = nn.Conv2d(4, 5, 3, padding=1, bias=False), 2
    first, second = {"spatial": ((2, 4, 3, 1), (5, 2, 1, 3)), "channel": ((2, 4, 3, 3), (5, 2, 1, 1))}[form]
    weights = {"first.weight": random(*first), "second.weight": random(*second)}
    weights |= {"second.bias": random(5)} if bias else {}
    layer = loaded(dense, {"kind": "conv_pair", "form": form, "rank": rank}, weights)
    padding = [(1, 0), (0, 1)] if form == "spatial" else [(1, 1), (0, 0)]
    middle = conv2d(X, weights["first.weight"], padding=padding[0])
    expected = conv2d(middle, weights["second.weight"], weights.get("second.bias"), padding=padding[1])
    torch.testing.assert_close(layer(X), expected)


def test_a_grouped_pair_of_each_family_and_of_a_classifier() -> None:
    dense = nn.Conv2d(4, 6, 3, padding=1)
    weights = {"body.0.weight": random(2, 4, 1, 3), "body.1.weight": random(6, 2, 3, 1), "body.1.bias": random(6)}
    layer = loaded(dense, {"kind": "grouped_pair", "family": "spatial", "groups": 1, "rank": 2}, weights)
    middle = conv2d(X, weights["body.0.weight"], padding=(0, 1))
    expected = conv2d(middle, weights["body.1.weight"], weights["body.1.bias"], padding=(1, 0))
    torch.testing.assert_close(layer(X), expected)
    weights = {"body.0.weight": random(4, 4, 1, 1), "body.1.weight": random(6, 2, 3, 3), "body.1.bias": random(6)}
    layer = loaded(dense, {"kind": "grouped_pair", "family": "out_group", "groups": 2, "rank": 2}, weights)
    middle = conv2d(X, weights["body.0.weight"])
    expected = conv2d(middle, weights["body.1.weight"], weights["body.1.bias"], padding=1, groups=2)
    torch.testing.assert_close(layer(X), expected)
    weights = {"body.1.weight": random(6, 4, 1, 1), "body.3.weight": random(5, 6), "body.3.bias": random(5)}
    layer = loaded(nn.Linear(8, 5), {"kind": "grouped_pair", "family": "in_group", "groups": 2, "rank": 3}, weights)
    x = random(3, 8)
    middle = conv2d(x[:, :, None, None], weights["body.1.weight"], groups=2).flatten(1)
    torch.testing.assert_close(layer(x), linear(middle, weights["body.3.weight"], weights["body.3.bias"]))


def test_branches_low_rank_and_searched_layers() -> None:
    dense = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    pair = {"body.0.weight": random(2, 4, 1, 3), "body.1.weight": random(6, 2, 3, 1)}
    entry = {"kind": "branches", "branches": [{"family": "spatial", "groups": 1, "rank": 2}]}
    layer = loaded(dense, entry, {f"pairs.0.{name}": tensor for name, tensor in pair.items()})
    middle = conv2d(X, pair["body.0.weight"], padding=(0, 1))
    torch.testing.assert_close(layer(X), conv2d(middle, pair["body.1.weight"], padding=(1, 0)))
    weights = {"U": random(12, 2), "s": random(2), "V": random(2, 18)}
    layer = loaded(dense, {"kind": "low_rank", "form": "spatial", "rank": 2}, weights)
    kernel = (weights["U"] * weights["s"].abs() @ weights["V"]).reshape(4, 3, 6, 3).permute(2, 0, 1, 3)
    torch.testing.assert_close(layer(X), conv2d(X, kernel, padding=1), rtol=1e-4, atol=1e-4)
    points = [["spatial", 1, 2, 300], ["in_group", 1, 1, 200], [None, 1, None, 900]]
    weights = {"weight": random(6, 4, 3, 3), "theta": random(3), "choice": torch.tensor(0)}
    weights |= {"temperature": torch.ones(()), "total": torch.ones(())}
    bases = {"basis_spatial_1": torch.linalg.qr(random(12, 2))[0][None], "basis_in_group_1": random(1, 6, 1)}
    layer = loaded(dense, {"kind": "searched", "points": points, "fixed": []}, weights | bases)
    flat = weights["weight"].transpose(1, 2).reshape(18, 12)  # (n kh, c kw): the smaller side is projected
    kernel = (flat @ bases["basis_spatial_1"][0] @ bases["basis_spatial_1"][0].T).reshape(6, 3, 4, 3).transpose(1, 2)
    torch.testing.assert_close(layer(X), conv2d(X, kernel, padding=1), rtol=1e-4, atol=1e-4)


def test_present_names_and_other_kinds_stay() -> None:
    entries = {
        "a": {"kind": "pair", "factorisation": "in_group", "groups": 1, "rank": 2, "bias": False},
        "b": {"kind": "masked"},
        "c": {"kind": "low_rank", "factorisation": "in_group", "rank": 2},
    }
    weights = {"a.body.0.weight": random(1), "b.first.weight": random(2), "fc.basis_spatial_1": random(3)}
    upgraded, tensors = upgrade_layers(entries, weights)
    assert upgraded == entries and list(tensors) == list(weights)


def test_a_bias_belongs_to_the_layer_that_has_it() -> None:
    entry = {"kind": "grouped_pair", "family": "in_group", "groups": 1, "rank": 2}
    weights = {"net.body.0.body.1.bias": random(1), "net.body.1.body.1.weight": random(1)}
    upgraded, tensors = upgrade_layers({"net.body.0": entry, "net.body.1": entry}, weights)
    assert [upgraded[name]["bias"] for name in upgraded] == [True, False] and list(tensors) == list(weights)


@pytest.mark.parametrize("kind", ["taught", "grouped_pair"])
def test_many_layers_take_a_moment(kind: str) -> None:
    entry = {"taught": {"branches": []}, "grouped_pair": {"family": "in_group", "groups": 1, "rank": 2}}[kind]
    blueprint = {f"a.{number}": {"kind": kind, **entry} for number in range(20_000)}
    weights = {f"{name}.{part}": X for name in blueprint for part in ("weight", "student.pairs.0.body.0.weight")}
    target = "paredown.models.cifar.resnet.cifar_resnet"
    start = time.monotonic()
    data, tensors = upgrade({"architecture": {"_target_": target}, "blueprint": blueprint}, weights)
    assert time.monotonic() - start < 5 and len(data["blueprint"]) == len(blueprint)
    assert ("a.7.pairs.0.body.0.weight" in tensors) == ("a.7.weight" not in tensors) == (kind == "taught")
