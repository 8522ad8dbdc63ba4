"""Centripetal SGD: members of a cluster meet whatever the data, and merging them then changes nothing."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.recipe import Recipe
from paredown.surgery.clustering import clusters_of, members
from paredown.surgery.narrowing import merge
from paredown.surgery.width_budget import scoped
from paredown.training.hooks.centripetal import Centripetal

IMAGE = (3, 16, 16)
STEPS = 50


def resnet() -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "shortcut": "A"}
    network = blueprint.create(architecture, IMAGE)
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return network


def started(network: Network, recipe: Recipe, strength: float = 3e-3) -> tuple[Centripetal, FitState]:
    widths = {group.name: group.size * 5 // 8 for group in scoped(network)}
    before = Network(copy.deepcopy(network.module), network.architecture, network.input_shape)
    context = Context(SimpleNamespace(input_shape=IMAGE), torch.device("cpu"), 0, earlier=lambda name: before)
    hook, state = Centripetal(strength, widths, "train"), FitState(network.module, context, recipe)
    hook.start(state)
    optimizer = hook.optimizer(state)
    assert optimizer is not None
    state.optimizer = optimizer
    return hook, state


def random_step(hook: Centripetal, state: FitState) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    hook.after_backward(state)
    state.optimizer.step()


def test_distances_shrink_at_the_papers_rate_whatever_the_gradients() -> None:
    network = resnet()
    network.module.double()
    recipe = Recipe(1, learning_rate=0.03, momentum=0.0, weight_decay=1e-4)
    hook, state = started(network, recipe)
    groups = {group.name: group for group in scoped(network)}
    clusters = clusters_of(network.module, groups.values(), hook.widths)
    name = "layer3.0.conv1"
    pair = next(cluster for cluster in members(clusters[name]) if len(cluster) > 1)[:2]

    def distance(parameter: str) -> torch.Tensor:
        value = network.module.get_parameter(parameter).detach()
        return value[pair[0]] - value[pair[1]]

    norm = name.replace("conv", "bn")
    parameters = {f"{name}.weight": 1e-4 + 3e-3, f"{norm}.weight": 3e-4, f"{norm}.bias": 2 * 3e-4}
    before = {parameter: distance(parameter).clone() for parameter in parameters}
    for _ in range(STEPS):
        random_step(hook, state)
    for parameter, decay in parameters.items():
        expected = before[parameter] * (1 - 0.03 * decay) ** STEPS
        assert torch.allclose(distance(parameter), expected, rtol=1e-9, atol=1e-12)
    assert pytest.approx(0.911189559604, abs=1e-12) == (1 - 0.03 * 0.0031) ** 1000


def test_what_has_met_merges_without_a_change() -> None:
    network = resnet()
    recipe = Recipe(1, learning_rate=1e-2, momentum=0.0, weight_decay=0.0)
    hook, state = started(network, recipe, strength=100.0)  # 1 - lr * strength is 0
    for _ in range(200):
        for parameter in state.model.parameters():
            parameter.grad = 1e-2 * torch.randn_like(parameter)
        hook.after_backward(state)
        state.optimizer.step()
    groups = scoped(network)
    before = state.context.earlier("train")
    sets = {n: members(c) for n, c in clusters_of(before.module, scoped(before), hook.widths).items()}
    images = torch.randn(4, *IMAGE)
    with torch.no_grad():
        expected = network.module.eval()(images)
        assert merge(network, groups, sets) < 1e-5
        found = network.module(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert network.module.fc.in_features == 40  # type: ignore[union-attr]


def test_layers_that_share_channels_share_clusters() -> None:
    network = resnet()
    recipe = Recipe(1, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    hook, state = started(network, recipe)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    hook.strength = 0.0
    for clustered in hook._clustered:
        clustered.strength = 0.0
    hook.after_backward(state)
    clusters = clusters_of(state.context.earlier("train").module, scoped(network), hook.widths)["conv"]
    one, *others = next(cluster for cluster in members(clusters) if len(cluster) > 1)
    for layer in ("conv", "layer1.0.conv2", "bn", "layer1.0.bn2"):
        gradient = network.module.get_parameter(f"{layer}.weight").grad
        assert gradient is not None
        assert all(torch.allclose(gradient[one], gradient[other]) for other in others)


def test_scales_shifts_and_biases_have_no_decay() -> None:
    _, state = started(resnet(), Recipe(1, learning_rate=0.1, weight_decay=1e-2, nesterov=True))
    rates = {(group["lr"], group["weight_decay"], group["nesterov"]) for group in state.optimizer.param_groups}
    assert rates == {(0.1, 1e-2, True), (0.1, 0.0, True), (0.2, 0.0, True)}
    held = sum(len(group["params"]) for group in state.optimizer.param_groups)
    assert held == len(list(state.model.parameters()))


def test_adam_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs recipe\.optimizer=sgd"):
        started(resnet(), Recipe(1, optimizer="adam"))
