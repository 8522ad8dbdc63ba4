"""Networks as data: what a folder from another machine may and may not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network

ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Network, Path]:
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    blueprint.rewrite(network, "layer1.0.conv1", "ssc", g=4, p=4)
    blueprint.save(network, tmp_path)
    return network, tmp_path


def test_a_rewritten_network_comes_back(saved: tuple[Network, Path]) -> None:
    network, folder = saved
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(blueprint.load(folder)(images), network.module.eval()(images))


def change(folder: Path, **values: object) -> None:
    path = folder / blueprint.ARCHITECTURE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_nothing_outside_the_models_is_called(saved: tuple[Network, Path]) -> None:
    change(saved[1], architecture={"_target_": "os.system", "command": "true"})
    with pytest.raises(UserError, match="not below") as caught:
        blueprint.load(saved[1])
    assert str(caught.value).startswith(f"{saved[1]}: architecture._target_=os.system is neither imported nor called")


@pytest.mark.parametrize("kind", ["ssx", "../../evil", "_ssc_choice"])
def test_an_unknown_kind_is_named(saved: tuple[Network, Path], kind: str) -> None:
    change(saved[1], blueprint={"layer1.0.conv1": {"kind": kind}})
    with pytest.raises(UserError, match="no layer kind"):
        blueprint.load(saved[1])


def test_an_unknown_kind_of_any_length_leaves_room_for_the_known(saved: tuple[Network, Path]) -> None:
    change(saved[1], blueprint={"layer1.0.conv1": {"kind": "k" * 10**6}})
    with pytest.raises(UserError, match=r"no layer kind 'k{100}': known: .*ssc"):
        blueprint.load(saved[1])


def test_an_argument_of_a_newer_version_is_named(saved: tuple[Network, Path]) -> None:
    change(saved[1], blueprint={"layer1.0.conv1": {"kind": "ssc", "g": 4, "p": 4, "phase": 1}})
    with pytest.raises(UserError, match=r"layer kind 'ssc': .*'phase' \(was this made by a newer paredown\?\)"):
        blueprint.load(saved[1])
    change(saved[1], architecture=ARCHITECTURE | {"depht": 8})
    with pytest.raises(UserError, match=r"cifar_resnet: .*'depht'"):
        blueprint.load(saved[1])


def test_weights_of_another_shape_are_named(saved: tuple[Network, Path]) -> None:
    change(saved[1], architecture=ARCHITECTURE | {"num_classes": 7})
    with pytest.raises(UserError, match=r"fc\.\w+ has shape"):
        blueprint.load(saved[1])


def test_a_truncated_file_is_one_line(saved: tuple[Network, Path]) -> None:
    path = saved[1] / blueprint.WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"weights\.safetensors cannot be read"):
        blueprint.load(saved[1])


def test_missing_tensors_are_named(saved: tuple[Network, Path]) -> None:
    save_file({"other": torch.zeros(1)}, saved[1] / blueprint.WEIGHTS)
    with pytest.raises(UserError, match=r"has no tensor 'conv\.weight'"):
        blueprint.load(saved[1])
