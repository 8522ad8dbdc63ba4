"""SSC as a method: the plan it makes, what its edit does to a network, what it says and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.keys import stage_key
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.ssc.layer import SSCConv2d, build
from paredown.layers.ssc.pattern import support
from paredown.methods.sparse.ssc.method import SSC, swap
from paredown.run import walk
from paredown.training.hooks.packed import Packed

RECIPE = Recipe(epochs=1)
SMALL = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}
CONTEXT = Context(None, torch.device("cpu"), 0)


def dense(name: str = "cifar.resnet.cifar_resnet", **arguments: object) -> Network:
    arguments = arguments or {"depth": 8, "width": 2}
    return blueprint.create({"_target_": f"paredown.models.{name}", **arguments}, (3, 32, 32))


def parts(method: SSC, target: Target | None, network: Network) -> tuple[Edit, Fit]:
    edit, fit = method.plan(target, network, RECIPE)
    assert isinstance(edit, Edit) and isinstance(fit, Fit) and fit.recipe == RECIPE
    return edit, fit


def apply(method: SSC, target: Target | None, network: Network) -> Network:
    edit, _ = parts(method, target, network)
    edit.function(network, CONTEXT, **edit.arguments)
    return network


class Repeated(nn.Module):
    """A layer that is called at two sizes beside one that is called once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.often, self.once = (nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.once(self.often(self.often(self.stem(x)).relu()[..., ::2, ::2])).mean((2, 3))


def test_a_speed_up_is_counted_over_all_calls_of_a_layer() -> None:
    network = Network(Repeated(), {}, (3, 15, 15))
    before = count(network.module, network.input_shape).macs
    edit, _ = parts(SSC(), Target("speed_up", 4), network)
    for name, (g, p) in edit.arguments["layers"].items():
        network.module.set_submodule(name, build(network.module.get_submodule(name), g, p))
    assert before / count(network.module, network.input_shape).macs == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("target", [Target("sparsity", 0.9), Target("speed_up", 4)])
def test_the_target_is_what_the_cost_counters_find(target: Target) -> None:
    network = dense()
    before = count(network.module, network.input_shape)
    after = count(apply(SSC(), target, network).module, network.input_shape)
    if target.quantity == "sparsity":
        weights = [sum(layer.weight.numel() for layer in conv_and_linear(network.module))]
        kept = sum(active(layer) for layer in conv_and_linear(network.module))
        assert 1 - kept / weights[0] == pytest.approx(0.9, abs=0.005)
    else:
        assert before.macs / after.macs == pytest.approx(4, rel=0.02)


def conv_and_linear(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def active(layer: nn.Module) -> int:
    return layer.active_weights() if isinstance(layer, SSCConv2d) else layer.weight.numel()


def test_planning_changes_neither_the_network_nor_the_random_state() -> None:
    network = dense()
    before, state = {k: v.clone() for k, v in network.module.state_dict().items()}, torch.get_rng_state()
    parts(SSC(), Target("speed_up", 3), network)
    assert not network.blueprint and network.module.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_the_swapped_network_holds_the_dense_weights_where_the_pattern_is() -> None:
    network = dense()
    weight = network.module.layer2[0].conv2.weight.detach().clone()
    apply(SSC(g=8, p=3, p_1x1=4, parity="alternate"), None, network)
    layer = network.module.layer2[0].conv2
    assert torch.equal(layer.weight, weight * support(64, 64, 3, 8, 3, "alternate"))
    entry = {"kind": "ssc", "g": 8, "p": 3, "parity": "alternate", "kernel": "parity"}
    assert network.blueprint["layer2.0.conv2"] == entry
    assert network.blueprint["layer2.0.shortcut.conv"]["p"] == 4 and "conv" not in network.blueprint


def test_weights_outside_the_pattern_stay_exactly_zero_in_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = apply(SSC(g=8, p=4), None, blueprint.create(SMALL, (3, 16, 16)))
    layers = [layer for layer in network.module.modules() if isinstance(layer, SSCConv2d)]
    start = [layer.weight.detach().clone() for layer in layers]
    optimiser = torch.optim.SGD(network.module.parameters(), 0.1, momentum=0.9, weight_decay=0.05)
    for _ in range(4):
        optimiser.zero_grad()
        cross_entropy(network.module(torch.randn(8, 3, 16, 16)), torch.randint(10, (8,))).backward()
        optimiser.step()
    for layer, before in zip(layers, start, strict=True):
        assert not layer.weight[~layer.mask].any() and (layer.weight[layer.mask] != before[layer.mask]).all()
    blueprint.save(network, tmp_path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(blueprint.load(tmp_path)(x), network.module.eval()(x))


def test_the_edit_is_plain_json_data() -> None:
    edit, _ = parts(SSC(), Target("sparsity", 0.9), dense())
    assert edit.function is swap and json.loads(json.dumps(edit.arguments)) == edit.arguments


def test_sparse_fan_out_keeps_the_variance_of_each_filters_output() -> None:
    torch.manual_seed(0)
    outputs = {}
    for init in ("dense", "sparse_fan_out"):
        network = dense()
        nn.init.normal_(network.module.layer3[0].conv2.weight, std=(9 * 128) ** -0.5)
        swap(network, CONTEXT, {"layer3.0.conv2": (4, 4)}, "halves", "parity", init)
        x = torch.randn(16, 128, 10, 10)
        outputs[init] = network.module.layer3[0].conv2(x)[:, :, 1:-1, 1:-1].var(dim=(0, 2, 3)).detach()
    assert float(outputs["sparse_fan_out"].mean()) == pytest.approx(1, abs=0.1)
    assert outputs["dense"].mean() < 0.2
    odd, even = (float(half.mean()) for half in outputs["sparse_fan_out"].chunk(2))
    assert odd == pytest.approx(even, rel=0.1)  # 4 and 5 weights per kernel, the same variance


@pytest.mark.parametrize(
    ("name", "arguments", "all_params", "kept_percent"),
    [
        ("cifar.mobilenet.mobilenet_v2_cifar", {}, 2_296_922, 52.46),
        ("cifar.mobilenet.mobilenet_v2_cifar", {"projections": False}, 2_237_770, 52.50),
        ("torchvision.shufflenet_v2", {"num_classes": 10}, 1_263_854, 51.95),
        ("torchvision.shufflenet_v2", {"num_classes": 10, "width": 0.5}, 352_042, 54.00),
    ],
)
def test_halved_point_wise_convolutions(name: str, arguments: dict, all_params: int, kept_percent: float) -> None:
    network = blueprint.create({"_target_": f"paredown.models.{name}", **arguments}, (3, 32, 32))
    assert count(network.module, network.input_shape).params == all_params
    apply(SSC(p=2, pointwise_only=True), None, network)
    convolutions = [layer for layer in network.module.modules() if isinstance(layer, nn.Conv2d)]
    assert all(isinstance(layer, SSCConv2d) == (layer.kernel_size == (1, 1)) for layer in convolutions)
    kept = count(network.module, network.input_shape).params
    assert 100 * kept / all_params == pytest.approx(kept_percent, abs=0.005)


def test_halving_all_but_the_shortcuts() -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}, (3, 32, 32))
    apply(SSC(p=2, pointwise_only=True, replace_shortcuts=False), None, network)
    assert 100 * count(network.module, network.input_shape).params / 2_296_922 == pytest.approx(53.73, abs=0.005)


def test_dead_inputs_are_told_with_numbers(caplog: pytest.LogCaptureFixture) -> None:
    network = dense(depth=32, width=2)
    caplog.set_level(logging.INFO, "paredown")
    parts(SSC(g=12, p=12), None, network)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "190 input channels" in warnings[0]
    assert "95.258% in scope conv_fc" in caplog.text and "95.323% in conv_only" in caplog.text
    caplog.clear()
    parts(SSC(g=8, p=4), None, network)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


VGG = {"_target_": "paredown.models.cifar.vgg.vgg19_bn"}


def packed_layers(method: SSC, network: Network, precision: str = "32") -> list[str]:
    fit = method.plan(Target("sparsity", 0.9), network, Recipe(epochs=1, precision=precision))[1]
    assert isinstance(fit, Fit)
    return [name for hook in fit.hooks if isinstance(hook, Packed) for name in hook.layers]


def test_wide_layers_train_packed_by_a_rule_that_the_recipe_decides() -> None:
    with torch.device("meta"):
        network = blueprint.create(VGG, (3, 32, 32))
    convs = {name: layer for name, layer in network.module.named_modules() if isinstance(layer, nn.Conv2d)}
    wide = {least: [name for name, conv in convs.items() if conv.in_channels >= least] for least in (64, 128, 256)}
    assert packed_layers(SSC(), network) == wide[128] and packed_layers(SSC(), network, "bf16") == wide[256]
    assert packed_layers(SSC(packed=True), network, "bf16") == wide[64]
    assert packed_layers(SSC(packed=False), network) == []
    narrow = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 20}, (3, 32, 32))
    assert packed_layers(SSC(), narrow) == []


def test_on_a_gpu_the_masked_form_trains_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paredown")
    network = apply(SSC(g=4, p=3), None, dense())
    names = ("layer3.0.conv2",)
    gpu = FitState(network.module, Context(None, torch.device("cuda"), 0), RECIPE)
    Packed(names).start(gpu)
    assert network.module.layer3[0].conv2.groups_run == 1
    Packed(names, on_gpu=True).start(gpu)
    assert network.module.layer3[0].conv2.groups_run == 4
    assert caplog.text.count("masked dense form on a GPU") == 1 and "1 layers train in packed form" in caplog.text


@pytest.mark.slow
def test_two_ranks_train_packed_as_they_do_masked(tmp_path: Path) -> None:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "model.width=2", "debug=fast", "recipe.precision=32"]
    cheap = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false", "trainer.accelerator=cpu"]
    words = ["method=ssc", "method.g=4", "method.p=3", *small, *cheap, "trainer=ddp"]
    states = [
        walk.run([*words, f"method.packed={value}", f"output={tmp_path / value}"]).state for value in ("true", "false")
    ]
    assert states[0].name == states[1].name  # one key: the same thing in another way
    ours, theirs = (blueprint.load(state).state_dict() for state in states)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-4)


def test_equal_plans_share_a_key_and_another_target_changes_it() -> None:
    network = dense()
    found, _ = parts(SSC(), Target("sparsity", 0.9), network)
    other, _ = parts(SSC(), Target("sparsity", 0.8), network)
    again, _ = parts(SSC(), Target("sparsity", 0.9), network)
    keys = [stage_key(edit, "", 0, "") for edit in (found, other, again)]
    assert keys[0] == keys[2] != keys[1]
    fits = [parts(SSC(packed=value), Target("sparsity", 0.9), network)[1] for value in (True, False)]
    assert fits[0].hooks and not fits[1].hooks
    assert stage_key(fits[0], "", 0, "") == stage_key(fits[1], "", 0, "")  # the same thing in another way


@pytest.mark.parametrize(
    ("method", "target", "words"),
    [
        (SSC(), None, r"needs sparsity=, speed_up=, or its own method\.g and method\.p"),
        (SSC(g=8), None, "needs sparsity="),
        (SSC(p=8), None, "needs sparsity="),
        (SSC(g=8, p=3), Target("sparsity", 0.9), r"leave out method\.g, method\.p"),
        (SSC(p_1x1=2), Target("speed_up", 2), r"leave out method\.p_1x1"),
        (SSC(g=4, p=2, pointwise_only=True), None, r"leave out method\.g=4"),
        (SSC(g=4, p=0), None, "never meet"),
        (SSC(g=3, p=3, packed=True), None, r"packed=true: no layer splits into groups of 16 channels under g=3, p=3"),
        (SSC(), Target("sparsity", 0.999), r"sparsity=0\.999 is out of SSC's reach"),
        (SSC(), Target("speed_up", 1.05), r"speed_up=1\.05 is out of SSC's reach .* speed_up=1\.\d+"),
    ],
)
def test_mistakes_are_one_line(method: SSC, target: Target | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        method.plan(target, dense(), RECIPE)
    assert "\n" not in str(error.value)
