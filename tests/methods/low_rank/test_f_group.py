"""F-Group's design of ResNet-18, the reductions it is published with, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.recipe import Recipe
from paredown.cost import count
from paredown.cost.conventions import macs_under
from paredown.experiment.prepare import prepare
from paredown.layers.factorised.forms import Branch
from paredown.methods.low_rank.f_group import FGroup, design
from paredown.run import walk
from paredown.surgery.factorise import convolutions, decompose

SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1", "tracking=off"]
QUIET = ["latency.seconds=0.02", "trainer.progress=false"]
SHARES = FGroup().shares


def resnet18() -> Network:
    return blueprint.create({"_target_": "paredown.models.torchvision.resnet18"}, (3, 224, 224))


def test_the_groups_and_ranks_of_resnet18_and_what_they_save() -> None:
    network, before = resnet18(), resnet18()
    found = design(convolutions(network.module, "kxk"), SHARES)
    assert [groups for groups, _ in found.values()] == [8, 8, 8, 8, 2, 4, 4, 4, 1, 2, 2, 2]
    assert [rank for _, rank in found.values()] == [8] * 4 + [32] * 4 + [128] * 4
    assert list(found) == [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1) for k in (1, 2)]
    decompose(network, {name: [Branch("in_group", *pair)] for name, pair in found.items()})
    middle = network.module.get_submodule("layer2.0.conv2").body[0]
    assert (middle.in_channels, middle.out_channels, middle.groups) == (128, 128, 4)
    flops, params = ([f(net.module) for net in (network, before)] for f in (thop, parameters))
    # published as -42.31 and -10.66, from rounded counts; -42.28 and -10.65 were worked out beside this project
    assert 100 * (flops[0] / flops[1] - 1) == pytest.approx(-42.28, abs=0.005)
    assert 100 * (params[0] / params[1] - 1) == pytest.approx(-10.65, abs=0.005)
    assert count(network.module, (3, 224, 224)).params == params[0]


def thop(module: nn.Module) -> int:
    return macs_under("thop", module, (3, 224, 224))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_later_stages_stay_and_cifar_networks_have_the_same_groups() -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    convs = convolutions(network.module, "kxk")
    assert list(design(convs, SHARES).values()) == [(8, 2), (8, 2), (2, 8), (4, 8), (1, 32), (2, 32)]
    assert [name.split(".")[0] for name in design(convs, (0.5,))] == ["layer1"] * 2


def test_from_the_command_line(tmp_path: Path) -> None:
    words = ["method=f_group", *SMALL, *QUIET, f"output={tmp_path}"]
    result = walk.run(words)
    assert result.metrics["cost/speed_up"] > 1.5
    notes = prepare(compose(words)).outcomes()[-1].notes
    assert notes["designs"]["layer2.0.conv2"] == [{"factorisation": "in_group", "groups": 4, "rank": 8}]
    layer = blueprint.load(result.state).get_submodule("layer2.0.conv2")
    assert torch.linalg.matrix_rank(layer.effective_weight()[:, :8].flatten(1)) == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["speed_up=2"], "f_group has one design, picked by hand: it cannot reach speed_up=2"),
        (["method.shares=[]"], r"method\.shares=\[\].* \(fractions of a stage"),
        (["method.shares=[0.5,1.5]"], r"method\.shares.*1\.5.* \(.*in \(0, 1\]\)"),
        (["method.shares=[0.3]"], r"layer1\.0\.conv1 has 16 input channels, .* rank 4\.8, its share of 16 filters"),
        (["method.shares=[0.5,0.75]"], r"layer2\.0\.conv1 has 16 input channels, .* rank 24"),
        (["model=mobilenet_v2"], r"MobileNetV2 has no convolution to factorise"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words, says, tmp_path: Path) -> None:
    small = [word for word in SMALL if not (word.startswith("model") and words[0].startswith("model"))]
    with pytest.raises(UserError, match=says) as error:
        prepare(compose(["method=f_group", *small, *QUIET, f"output={tmp_path}", *words])).steps  # noqa: B018
    assert "\n" not in str(error.value)


def test_a_transfer_has_no_training_to_repeat(tmp_path: Path) -> None:
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
    torch.save(blueprint.build(architecture, {}).state_dict(), tmp_path / "w.pt")
    words = [f"model.weights={tmp_path / 'w.pt'}", "dataset@transfer.dataset=digits", f"output={tmp_path}"]
    experiment = prepare(compose(["method=f_group", *SMALL, *QUIET, *words]))
    assert [step.stage.name for step in experiment.steps] == ["decompose"]
    with pytest.raises(UserError, match="this plan has none"):
        prepare(compose(["method=f_group", *SMALL, *QUIET, *words, "transfer.mode=finetune"])).steps  # noqa: B018


def test_a_network_that_the_user_brought_is_decomposed_as_it_is(tmp_path: Path) -> None:
    trained = walk.run(["method=dense", *SMALL, *QUIET, f"output={tmp_path}", "dataset.fraction=0.5"])
    words = [f"model.weights={trained.state / blueprint.WEIGHTS}", f"output={tmp_path}"]
    found = walk.run(["method=f_group", *SMALL, *QUIET, *words]).metrics
    assert found["base/top1"] == trained.metrics["final/top1"]
    assert found["gain/base_top1"] == found["final/top1"] - found["base/top1"] < 0
    assert found["selected/top1"] == found["best/top1"] == found["final/top1"]


def test_epochs_of_finetuning_make_a_third_stage() -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    assert [stage.name for stage in FGroup().plan(None, network, Recipe(epochs=1))] == ["train", "decompose"]
