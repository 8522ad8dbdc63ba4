"""The search for SSC's pair: targets between pairs, what it refuses, and its order of preference by brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from paredown.core.errors import UserError
from paredown.layers.ssc.pattern import nonzeros, support
from paredown.methods.sparse.ssc.choice import Choice, choose
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.torchvision import resnet18, shufflenet_v2


def counted(model: nn.Module, choice: Choice) -> float:
    """The sparsity of all convolution and linear weights, from the masks themselves."""
    kept = total = 0
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += layer.weight.numel()
            pair = choice.layers.get(name)
            size = (layer.in_channels, layer.out_channels, layer.kernel_size[0]) if pair else ()
            kept += int(support(*size, *pair).sum()) if pair else layer.weight.numel()
    return 1 - kept / total


@pytest.mark.parametrize("build", [lambda: cifar_resnet(20), resnet18, lambda: shufflenet_v2(10)])
@pytest.mark.parametrize("sparsity", [0.53, 0.6, 0.63, 0.76, 0.88])
def test_targets_that_no_single_pair_meets_are_met_within_a_point(build, sparsity: float) -> None:
    with torch.device("meta"):
        model = build()
    choice = choose(model, sparsity)
    assert counted(model, choice) == pytest.approx(choice.sparsity, abs=1e-12)
    assert choice.sparsity == pytest.approx(sparsity, abs=0.01 if choice.tail else 0.005)


def test_the_sparser_pair_goes_to_the_output_first() -> None:
    choice = choose(cifar_resnet(20), 0.6)
    sparser = [pair == (2, 1) for pair in choice.layers.values()]
    assert choice.tail == (2, 1, 1) and sparser[-1] and not any(sparser[: len(sparser) // 2])


def test_a_gap_too_wide_for_whole_layers_is_refused_with_both_neighbours() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(64, 64, 3))  # one layer: 49.9 % or 69.4 %, nothing between
    with pytest.raises(UserError, match=r"sparsity=0\.49\d\d \(method\.g=1 .* and sparsity=0\.69\d\d \(method\.g=2 "):
        choose(model, 0.6)


@pytest.mark.parametrize(("target", "alike_at_least"), [(0.9, 1), (0.95, 9)])
def test_no_pair_is_preferable_under_the_stated_order(target: float, alike_at_least: int) -> None:
    layers = [(32, 32, 3), (32, 64, 1), (32, 64, 3), (64, 64, 3)]
    model = nn.Sequential(nn.Conv2d(3, 32, 3), *(nn.Conv2d(*layer, bias=False) for layer in layers))
    total = sum(layer.weight.numel() for layer in model)
    found = []
    for g, p in itertools.product(range(2, 65), range(1, 65)):
        for p_1x1 in {p, 1 << round(math.log2(p))}:
            clipped = [(min(g, n), min(p, n - n // min(g, n))) for n, _, _ in layers]
            pairs = [(0, min(p_1x1, n)) if k == 1 else own for own, (n, _, k) in zip(clipped, layers, strict=True)]
            kept = 864 + sum(nonzeros(*layer, *pair) for layer, pair in zip(layers, pairs, strict=True))
            if abs(1 - kept / total - target) <= 0.005:
                masks = [support(*layer, *pair) for layer, pair in zip(layers, pairs, strict=True)]
                dead = not all(mask.any(dim=3).any(dim=2).any(dim=0).all() for mask in masks)
                ragged = any(n % (own[0] or own[1]) != 0 for own, (n, _, _) in zip(pairs, layers, strict=True))
                order = (math.gcd(p, g - 1) != 1, abs(math.log(p / g)), g, p_1x1 != p)
                steps = math.floor(abs(1 - kept / total - target) / 0.0005 + 1e-9)  # of what rounding of a target means
                found.append(((dead, ragged, steps), order, (g, p, p_1x1)))
    nearest = min(found)
    choice = choose(model, target)
    assert len(found) > 10 and sum(at == nearest[0] for at, *_ in found) >= alike_at_least
    assert (choice.g, choice.p, choice.p_1x1) == nearest[2]
