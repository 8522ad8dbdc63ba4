"""Classifiers of torchvision and timm by name: what they compute, their weights' metadata, and names that are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from paredown.core import blueprint
from paredown.core.config import compose, compose_all
from paredown.core.errors import UserError
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.models import pretrained
from paredown.models import timm as timms
from paredown.models.pretrained import preprocessing, weights_file
from paredown.models.torchvision import classifier

TORCHVISION = {"_target_": "paredown.models.torchvision.classifier", "preprocessing": "weights"}
TIMM = {"_target_": "paredown.models.timm.classifier", "preprocessing": "weights"}
SMALL = ("dataset=digits", "recipe.precision=32", "trainer.accelerator=cpu", "tracking=off")


def digits(tmp_path: Path, *words: str) -> Experiment:
    return prepare(compose([*SMALL, f"output={tmp_path}", *words]))


@pytest.mark.parametrize("name", ["resnet34", "squeezenet1_1", "mnasnet0_5"])
def test_it_computes_what_torchvisions_does(name: str) -> None:
    own = classifier(name, num_classes=7, image_size=(64, 64)).eval()
    other = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    other.load_state_dict(own.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(own(images), other(images))


def test_arguments_channels_and_sizes_reach_it() -> None:
    assert classifier("mobilenet_v3_small", {"dropout": 0.7}, image_size=(32, 32)).classifier[2].p == 0.7
    gray = classifier("resnet34", num_classes=3, in_channels=1, image_size=(32, 32))
    assert gray(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert gray.conv1.stride == (2, 2) and gray.conv1.bias is None
    assert classifier("vit_b_16", {"dropout": 0.1}, image_size=(32, 32), num_classes=2).image_size == 32
    assert classifier("inception_v3", image_size=(96, 96)).train()(torch.zeros(2, 3, 96, 96)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet43", "torchvision has no network 'resnet43': did you mean resnet34"),
        ("ResNet34", "did you mean resnet34"),
        ("deeplabv3_resnet50", "is torchvision's for segmentation, no image classifier"),
        ("fasterrcnn_resnet50_fpn", "is torchvision's for detection, no image classifier"),
        ("raft_small", "is torchvision's for optical_flow, no image classifier"),
        ("r3d_18", "is torchvision's for video, no image classifier"),
        ("quantized_resnet18", "is torchvision's for quantization, no image classifier"),
        ("os.system", "torchvision has no network 'os.system'"),
    ],
)
def test_what_is_no_classifier_is_one_line_with_the_nearest(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        _ = digits(tmp_path, "model=torchvision", f"model.name={name}").steps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"no_such": 1}, "no_such"),
        ({"weights": "DEFAULT"}, "model.arguments.weights: this is decided by"),
        ({"num_classes": 3}, "model.arguments.num_classes: this is decided by"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        classifier("resnet18", arguments)


def test_a_network_that_the_images_are_too_small_for_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AlexNet does not run on an image of shape \(1, 8, 8\)"):
        _ = digits(tmp_path, "model=torchvision", "model.name=alexnet").steps


def test_a_name_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.name"):
        digits(tmp_path, "model=torchvision")


def test_size_and_normalisation_are_those_of_the_weights() -> None:
    found = preprocessing({**TORCHVISION, "name": "efficientnet_b3", "weights": "DEFAULT"})
    assert found == {"size": 300, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert preprocessing({**TORCHVISION, "name": "resnet34", "weights": None}) == {}
    assert preprocessing({**TORCHVISION, "name": "resnet34", "weights": "DEFAULT", "preprocessing": "dataset"}) == {}
    with pytest.raises(UserError, match=r"torchvision's weights of resnet34 are IMAGENET1K_V1 \(or DEFAULT\)"):
        preprocessing({**TORCHVISION, "name": "resnet34", "weights": "imagenet1k_v7"})


def test_they_reach_the_data_set_and_what_is_typed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"size": 24, "mean": [0.5] * 3, "std": [0.25] * 3}
    monkeypatch.setattr("paredown.experiment.prepare.preprocessing", lambda model: facts)
    monkeypatch.setattr("paredown.experiment.prepare.weights_file", lambda model: None)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder := tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(10):
                torchvision.io.write_png(
                    torch.full((3, 16, 16), number, dtype=torch.uint8), str(folder / f"{number}.png")
                )
    words = ["model=torchvision", "model.name=resnet18", "dataset=folder", f"dataset.root={tmp_path / 'images'}"]
    typed = ("recipe.precision=32", "trainer.accelerator=cpu", f"output={tmp_path / 'out'}", *words)
    data = prepare(compose(list(typed))).data
    assert (data.input_shape, data.mean, data.std) == ((3, 24, 24), (0.5,) * 3, (0.25,) * 3)
    assert prepare(compose([*typed, "dataset.size=20"])).data.input_shape == (3, 20, 20)
    given = prepare(compose([*typed, "dataset.mean=[0.1,0.2,0.3]"]))
    assert (given.data.mean, given.data.std) == ((0.1, 0.2, 0.3), (0.25,) * 3)
    assert prepare(compose([*typed, "dataset.std=[1,1,1]"])).data.std == (1, 1, 1)
    assert "typed" not in given.settled  # so that it is not recorded
    (swept,) = compose_all([[*typed, "dataset.std=[1,1,1]"]])
    assert prepare(swept).data.std == (1, 1, 1)
    with pytest.raises(UserError, match=r"dataset\.mean=None|dataset\.mean=null"):
        prepare(compose([*typed, "dataset.mean=null"]))


def test_weights_of_torchvision_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pretrained, "torchvisions", lambda url: asked.append(url) or "file")
    for weights in ("DEFAULT", "IMAGENET1K_V2", "imagenet1k_v1"):
        assert weights_file({**TORCHVISION, "name": "resnet50", "weights": weights}) == "file"
    assert asked[0] == asked[1] != asked[2]


def test_timm_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"model=timm needs the package timm: pip install 'paredown\[timm\]'"):
        timms.classifier("resnet18")


@pytest.fixture
def timm() -> object:
    return pytest.importorskip("timm", reason="timm, an extra of paredown, is not installed")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050.lamb_in1k"])
def test_it_computes_what_timms_does(timm, name: str) -> None:
    own = timms.classifier(name, {"drop_rate": 0.1}, num_classes=4, image_size=(64, 64)).eval()
    other = timm.create_model(name, num_classes=4).eval()
    other.load_state_dict(own.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(own(images), other(images))


def test_a_network_of_one_size_is_made_for_the_images(timm) -> None:
    assert timms.classifier("deit_tiny_patch16_224", num_classes=2, image_size=(32, 32)).patch_embed.img_size == (
        32,
        32,
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_eficientnet_lite0", "did you mean tf_efficientnet_lite0"),
        ("hf-hub:someone/model", "timm has no network 'hf-hub:someone/model'"),
        ("local-dir:/tmp", "timm has no network"),
        ("resnet18.no_such_tag", "no_such_tag"),
    ],
)
def test_names_that_timm_does_not_have(timm, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        timms.classifier(name)


@pytest.mark.parametrize(
    "argument", ["pretrained", "checkpoint_path", "pretrained_cfg", "features_only", "num_classes"]
)
def test_no_argument_reads_a_file(timm, argument: str) -> None:
    with pytest.raises(UserError, match=rf"model\.arguments\.{argument}: this is decided by"):
        timms.classifier("resnet18", {argument: "/tmp/x"})


def test_timms_metadata_and_weights(timm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = {**TIMM, "name": "tf_efficientnet_lite0", "weights": "DEFAULT"}
    assert preprocessing(model) == {"size": 224, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(UserError, match=r"timm's weights of tf_efficientnet_lite0 are in1k \(or DEFAULT\)"):
        preprocessing({**model, "weights": "in22k"})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def create(key: str, pretrained: bool) -> torch.nn.Module:
        assert (key, pretrained) == ("tf_efficientnet_lite0.in1k", True)
        if not (tmp_path / "network").exists():
            raise OSError("no route to the hub")
        return torch.nn.Linear(2, 2)

    fake = SimpleNamespace(**{**vars(timm), "create_model": create})
    monkeypatch.setattr(timms, "_timm", lambda: fake)
    with pytest.raises(UserError, match=r"cannot download timm's weights .*no route.*give model\.weights=PATH"):
        weights_file(model)
    (tmp_path / "network").touch()
    path = weights_file(model)
    (tmp_path / "network").unlink()
    assert weights_file(model) == path and Path(str(path)).is_file()  # kept


def test_timms_architecture_is_a_state_that_loads(timm, tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.timm.classifier", "name": "mobilenetv3_small_050", "num_classes": 3}
    network = blueprint.create(architecture | {"image_size": [32, 32]}, (3, 32, 32))
    blueprint.save(network, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(blueprint.load(tmp_path)(images), network.module.eval()(images))
