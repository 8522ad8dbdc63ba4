"""Whole networks with every backend against the masked one, and choices as data. Timing only has to run."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import DeployError
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.layers import masked
from paredown.methods.sparse.ssc.layers import clip
from paredown.runtime import cpu_kernel, search
from paredown.runtime.assembly import LayerBuilder
from paredown.runtime.equivalence import prove_equivalent
from paredown.runtime.interleaved import splits
from paredown.runtime.optimise import build, optimise
from paredown.runtime.search import MAX_ROUNDS, MIN_ROUNDS, race
from paredown.runtime.units import Traced

CPU, SHAPE = torch.device("cpu"), (3, 16, 16)
needs_compiler = pytest.mark.skipif(not cpu_kernel.available(), reason="no C++ compiler here")
NATIVE = pytest.param("native", marks=needs_compiler)
RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}
VGG = {"_target_": "paredown.models.cifar.vgg.vgg19_bn"}
MOBILENET = {"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}
SHUFFLENET = {"_target_": "paredown.models.torchvision.shufflenet_v2", "stem": "cifar", "width": 0.5}
EFFICIENTNET = {"_target_": "paredown.models.torchvision.efficientnet_b0"}
RESNET18 = {"_target_": "paredown.models.torchvision.resnet18"}
LOCAL = {"_target_": "paredown.models.cifar.counterparts.counterpart", "family": "s", "connection": "local", "alpha": 1}


def dense(architecture: dict[str, Any]) -> Network:
    """With batch norms that do something."""
    torch.manual_seed(0)
    shaped = {"image_size": [16, 16]} if "connection" in architecture else {}
    network = blueprint.create(architecture | shaped, SHAPE)
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            for values in (layer.bias, layer.running_mean):
                nn.init.normal_(values, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    network.module.eval()
    return network


def ssc(architecture: dict[str, Any], g: int = 8, p: int = 4) -> Network:
    network = dense(architecture)
    convs = [name for name, layer in network.module.named_modules() if isinstance(layer, nn.Conv2d)]
    for name in convs[1:]:
        conv = network.module.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        if conv.groups == 1:
            own_g, own_p = clip(g if conv.kernel_size[0] > 1 else 0, p, conv.in_channels)
            blueprint.rewrite(network, name, "ssc", g=int(own_g), p=int(own_p))
    return network


def low_rank(kind: str, **arguments: Any) -> Network:
    network = dense(RESNET)
    for name in ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv2"):
        blueprint.rewrite(network, name, kind, **arguments)
    return network


def choices(network: Network, backend: str, groups: int | None = None, **other: Any) -> dict[str, Any]:
    """Every layer that `backend` can run with it, the others plain."""
    builder, layers = LayerBuilder(network), {}
    for name, unit in Traced(network).units.items():
        made = builder.build(unit, backend)
        fits = made is not None and (backend != "interleaved" or splits(made, groups or 1))
        layers[name] = backend if fits else "plain"
    where = {"dtype": "float32", "batch": 4, "threads": 1, "device": "any", "portable": backend != "native"}
    return {"format": 1, "layers": layers, "groups": groups, "memory_format": "channels_last"} | where | other


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@needs_compiler
@pytest.mark.parametrize(
    "architecture",
    [RESNET | {"shortcut": "A"}, MOBILENET, LOCAL, *map(slow, (VGG, RESNET18, SHUFFLENET, EFFICIENTNET))],
)
def test_whole_networks_on_the_kernel(architecture: dict[str, Any]) -> None:
    network = ssc(architecture) if architecture is not LOCAL else dense(LOCAL)
    chosen = choices(network, "native")
    assert "native" in chosen["layers"].values() or architecture is LOCAL
    assert prove_equivalent(network, chosen) < 1e-5


@pytest.mark.parametrize(("architecture", "groups"), [(RESNET, 2), (RESNET, 8), slow(VGG, 8), slow(RESNET18, 4)])
def test_orders_fold_through_whole_networks(architecture: dict[str, Any], groups: int) -> None:
    network = ssc(architecture)
    chosen = choices(network, "interleaved", groups)
    assert "interleaved" in chosen["layers"].values()
    assert prove_equivalent(network, chosen) < 1e-5


@pytest.mark.parametrize("architecture", [RESNET | {"shortcut": "A"}, slow(SHUFFLENET)])
def test_networks_whose_channels_must_stay_in_order_are_not_interleaved(architecture: dict[str, Any]) -> None:
    network = ssc(architecture)
    with pytest.raises(UserError, match="cannot be interleaved"):
        build(network, choices(network, "interleaved", 2))


PAIR = {"factorisation": "in_group", "groups": 2, "rank": 3}


@pytest.mark.parametrize("backend", ["plain", "dense", NATIVE])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("low_rank", {"factorisation": "in_group", "rank": 4}),
        ("low_rank", {"factorisation": "vertical_first", "rank": 4}),
        ("pair", {"factorisation": "vertical_first", "groups": 1, "rank": 3, "bias": True}),
        ("pair", PAIR),
        ("branches", {"branches": [PAIR, {"factorisation": "horizontal_first", "groups": 1, "rank": 2}]}),
        ("masked", {}),
    ],
)
def test_low_rank_with_every_backend(kind: str, arguments: dict[str, Any], backend: str) -> None:
    network = low_rank(kind, **arguments)
    chosen = choices(network, backend)
    assert backend != "dense" or kind == "masked" or list(chosen["layers"].values()).count("dense") == 3
    assert prove_equivalent(network, chosen) < 1e-5


@pytest.mark.parametrize("kind", ["masked", "sparse"])
def test_masked_linear_layers_as_sparse_matrices(kind: str) -> None:
    network = dense({"_target_": "paredown.models.cifar.counterparts.three_fc", "hidden": 30, "image_size": [16, 16]})
    for name in ("fc1", "fc2", "fc3"):
        blueprint.rewrite(network, name, kind)
        layer = network.module.get_submodule(name)
        layer.set_mask(torch.rand_like(layer.weight) < 0.1)  # type: ignore[operator]
    chosen = choices(network, "sparse")
    assert list(chosen["layers"].values()) == ["sparse"] * 3
    assert prove_equivalent(network, chosen) < 1e-5
    assert type(build(network, choices(network, "plain")).get_submodule("fc3")) is nn.Linear


@pytest.mark.parametrize("portable", [True, False])
def test_choices_make_the_same_module_again(portable: bool) -> None:
    network = ssc(RESNET)
    before = copy.deepcopy(network.module.state_dict())
    found = optimise(network, batch=2, seconds=0.01, portable=portable)
    again = build(network, json.loads(json.dumps(found.choices)))
    images = torch.randn(5, *SHAPE)
    with torch.inference_mode():
        assert torch.equal(found.module(images), again(images))
        torch.testing.assert_close(again(images), network.module(images), rtol=1e-4, atol=1e-4)
    assert not {"native", "sparse"} & set(found.choices["layers"].values()) or not portable
    assert all(torch.equal(before[name], values) for name, values in network.module.state_dict().items())
    if portable:
        torch.export.export(found.module, (images,))


def test_no_choices_deploy() -> None:
    network = ssc(RESNET)
    plain = build(network, {})
    assert type(plain.get_submodule("layer1.0.conv1")) is nn.Conv2d and "bn1" in dict(plain.layer1[0].named_modules())


def test_where_there_is_no_compiler_the_layers_run_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ssc(RESNET)
    chosen = choices(network, "native")
    monkeypatch.setattr(cpu_kernel, "available", lambda: False)
    module, images = build(network, chosen), torch.randn(2, *SHAPE)
    assert {type(layer) for layer in module.modules() if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    torch.testing.assert_close(module(images), network.module(images), rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """Calls one masked convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = masked.build(nn.Conv2d(3, 3, 3, padding=1)), nn.BatchNorm2d(3)
        self.conv.set_mask(torch.rand_like(self.conv.weight) < 0.5)  # type: ignore[arg-type]
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(torch.relu(self.conv(x)))).mean((2, 3)))


def test_a_layer_that_is_called_twice_is_deployed_too() -> None:
    network = Network(Twice().eval(), {}, SHAPE)
    chosen = choices(network, "native")
    assert chosen["layers"] == {"fc": "plain"} and prove_equivalent(network, chosen) < 1e-5
    assert type(build(network, chosen).get_submodule("conv")) is nn.Conv2d


class SharedNorm(nn.Module):
    """Two convolutions followed by the same batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(3, 2)
        nn.init.uniform_(self.norm.running_mean, 1, 2)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.two(torch.relu(self.norm(self.one(x))))).mean((2, 3)))


@pytest.mark.parametrize("backend", ["plain", NATIVE])
def test_a_batch_norm_that_is_called_twice_is_folded_into_both_layers(backend: str) -> None:
    network = Network(SharedNorm().eval(), {}, SHAPE)
    chosen = choices(network, backend)
    assert prove_equivalent(network, chosen) < 1e-5
    assert not [layer for layer in build(network, chosen).modules() if isinstance(layer, nn.BatchNorm2d)]


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3)) if x.sum() > 0 else x.amax((1, 2, 3))


def test_a_network_that_cannot_be_traced_runs_as_deployed() -> None:
    network = Network(Branching(), {}, SHAPE)
    found = optimise(network, batch=2, seconds=0.01)
    assert found.choices["layers"] == {} and isinstance(found.module, Branching)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {"conv": "plane"}}, "layer 'conv' with backend 'plane': did you mean plain"),
        ({"layers": {"conv": "plain"}}, "another network: they have no layer 'fc'"),
        ({"layers": {"stem": "plain"}}, "another network: no layer 'stem' here"),
        ({"layers": ["conv"]}, "layers are a JSON object, not list"),
        ({"format": 2}, "of format 2, this version reads 1"),
        ({"memory_format": "nhwc"}, "memory_format='nhwc'"),
        ({"dtype": ["float32"]}, "dtype="),
        ({"groups": 1}, "groups=1 is neither null nor a number above 1"),
        ({"groups": 4}, "layers are interleaved if groups is set"),
        ({"seconds": 4}, "unknown key 'seconds'"),
    ],
)
def test_foreign_choices_are_one_clear_line(change: dict[str, Any], message: str) -> None:
    network = ssc(RESNET)
    with pytest.raises(UserError, match=message) as raised:
        build(network, choices(network, "plain") | change)
    assert "\n" not in str(raised.value)


def test_missing_keys_other_data_and_backends_that_cannot_run_a_layer() -> None:
    network = ssc(RESNET)
    chosen = choices(network, "plain")
    del chosen["groups"]
    with pytest.raises(UserError, match="have no 'groups'"):
        build(network, chosen)
    with pytest.raises(UserError, match="are a JSON object, not list"):
        build(network, ["plain"])  # type: ignore[arg-type]
    chosen = choices(network, "plain")
    for backend in ("sparse", "dense", "native"):
        chosen["layers"]["fc"] = backend
        if backend != "native" or cpu_kernel.available():
            with pytest.raises(UserError, match=rf"'{backend}' \(groups=None\) cannot run layer 'fc', a Linear"):
                build(network, chosen)


def test_a_backend_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from paredown.runtime import backends

    network = low_rank("low_rank", factorisation="in_group", rank=4)
    right = backends.dense

    def wrong(unit: Any, twin: Any) -> nn.Module | None:
        made = right(unit, twin)
        if made is not None:
            made.weight.data[0, 0] += 1e-6  # type: ignore[union-attr, index, operator]
        return made

    monkeypatch.setattr(backends, "dense", wrong)
    with pytest.raises(DeployError, match=r"layer layer1\.0\.conv1 with backend dense differs"):
        prove_equivalent(network, choices(network, "dense"))


def test_one_interruption_does_not_end_the_race_for_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "timed", lambda run, device: run())
    waits = {"fastest": iter([0.0, 0.02, *[0.001] * MIN_ROUNDS]), "other": iter([0.0, *[0.003] * MIN_ROUNDS])}
    assert race([lambda name=name: next(waits[name]) for name in waits], CPU, seconds=0) == [0.001, 0.003]  # type: ignore[misc]


def test_a_race_of_quick_networks_takes_the_time_it_is_given() -> None:
    calls: list[None] = []
    race([lambda: calls.append(None)], CPU, seconds=5.0)
    assert len(calls) == 1 + MAX_ROUNDS
