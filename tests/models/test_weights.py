"""A user's weights: every accepted form gives the same network, everything else is one line that says why."""

from __future__ import annotations

import hashlib
import pickle
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from threading import Thread

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from paredown.errors import UserError
from paredown.models.resnet import cifar_resnet
from paredown.models.weights import load_pretrained, weights_file

FORMS = {
    "plain": lambda weights: weights,
    "lightning": lambda weights: {"epoch": 3, "state_dict": weights},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "parallel": lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    "compiled": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "before 0.4.1": lambda weights: {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")},
}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, 0.5)


def refusal(module: nn.Module, path) -> str:
    with pytest.raises(UserError) as raised:
        load_pretrained(module, path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    return str(raised.value)


def assert_same(module: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_torch_file(trained, tmp_path, form):
    path = tmp_path / "weights.pt"
    torch.save(FORMS[form](trained.state_dict()), path)
    module = cifar_resnet(8, 0.5)
    load_pretrained(module, path)
    assert_same(module, trained)


def test_safetensors(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    module = cifar_resnet(8, 0.5)
    load_pretrained(module, str(path))
    assert_same(module, trained)


def test_missing_file(trained, tmp_path):
    assert "no such file" in refusal(trained, tmp_path / "nothing.pt")
    assert "no such file" in refusal(trained, tmp_path)


def test_a_pickled_module_is_named_and_never_run(trained, tmp_path):
    torch.save({"net": trained}, path := tmp_path / "whole.pt")
    message = refusal(trained, path)
    assert "paredown.models.resnet.CifarResNet" in message
    assert "state_dict()" in message


class Trap:
    """Its unpickling would create the file at `path`."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_a_hostile_pickle_does_nothing(trained, tmp_path):
    sprung = tmp_path / "sprung"
    (path := tmp_path / "trap.pt").write_bytes(pickle.dumps({"state_dict": Trap(sprung)}, protocol=2))
    refusal(trained, path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())  # the trap is real
    assert sprung.exists()


@pytest.mark.parametrize("content", [torch.ones(3), {}, {"epoch": 3}, {"net": {"weight": torch.ones(3)}}, [1, 2]])
def test_a_torch_file_without_a_state_dict(trained, tmp_path, content):
    torch.save(content, path := tmp_path / "other.pt")
    assert "tensor" in refusal(trained, path)


def test_other_number_of_classes_says_just_that(tmp_path):
    save_file(cifar_resnet(8, num_classes=100).state_dict(), path := tmp_path / "cifar100.safetensors")
    message = refusal(cifar_resnet(8, num_classes=10), path)
    assert "100 classes" in message
    assert "10 classes" in message
    assert "only the classifier (fc)" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 8, "width": 2}, ["conv.weight", "(32, 3, 3, 3)", "(16, 3, 3, 3)"]),
        ({"depth": 8, "width": 2, "num_classes": 100}, ["conv.weight", "(32, 3, 3, 3)"]),
        ({"depth": 14}, ["tensors this network does not have", "layer1.1"]),
        ({"depth": 8, "shortcut": "A"}, ["no tensor", "shortcut.conv.weight"]),
        ({"depth": 8, "in_channels": 1}, ["conv.weight", "(16, 1, 3, 3)"]),
    ],
)
def test_another_architecture_names_the_first_difference(tmp_path, arguments, words):
    save_file(cifar_resnet(**arguments).state_dict(), path := tmp_path / "other.safetensors")
    module = cifar_resnet(8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    message = refusal(module, path)
    assert all(word in message for word in words), message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(["zip", "legacy", "safetensors"]), cut=st.floats(0, 1), data=st.data())
def test_a_damaged_file_never_ends_in_another_error(tmp_path, form, cut, data):
    weights = nn.Linear(2, 2).state_dict()
    path = tmp_path / ("damaged.safetensors" if form == "safetensors" else "damaged.pt")
    if form == "safetensors":
        path.write_bytes(save(weights))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "zip")
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: max(1, int(cut * len(content)))])
    try:
        load_pretrained(nn.Linear(2, 2), path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of the files in tmp_path / "there"; torch's hub folder is empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "there").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "there")
    with HTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_url_is_downloaded_once_and_its_hash_is_checked(trained, tmp_path, server):
    torch.save(trained.state_dict(), path := tmp_path / "there" / "plain.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    named = path.rename(path.with_name(f"net-{digest}.pth"))
    found = weights_file({"weights": f"{server}/{named.name}"})
    load_pretrained(module := cifar_resnet(8, 0.5), found)
    assert_same(module, trained)
    named.rename(named.with_name("net-00000000.pth"))
    assert weights_file({"weights": f"{server}/{named.name}"}) == found
    with pytest.raises(UserError, match=r"cannot download .*00000000\.pth \(invalid hash value"):
        weights_file({"weights": f"{server}/net-00000000.pth"})
    with pytest.raises(UserError, match=r"cannot download .*nothing\.pth \(HTTP Error 404.* give model\.weights=PATH"):
        weights_file({"weights": f"{server}/nothing.pth"})


URLS = {"resnet18": "resnet18-f37072fd.pth", "mobilenet_v2": "mobilenet_v2-b0353104.pth"}


@pytest.mark.parametrize("model", URLS)
def test_torchvisions_first_weights_and_no_network(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(url, *_args, **_more):
        assert url == f"https://download.pytorch.org/models/{URLS[model]}"
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    config = {"_target_": f"paredown.models.vision.{model}", "weights": "IMAGENET1K_V1"}
    with pytest.raises(UserError, match=r"cannot download https:.* \(Name or service not known\).*model\.weights=PATH"):
        weights_file(config)


@pytest.mark.parametrize(("width", "hash"), [(0.5, "f707e7126e"), (1.0, "5666bf0f80")])
def test_what_lies_in_the_folder_is_not_downloaded(width, hash, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = f"shufflenetv2_x{width:g}-{hash}.pth"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).touch()
    config = {"_target_": "paredown.models.vision.shufflenet_v2", "width": width, "weights": "imagenet1k_v1"}
    assert weights_file(config) == str(tmp_path / "checkpoints" / name)


def test_weights_that_there_are_not():
    assert weights_file({"weights": None}) is None
    with pytest.raises(UserError, match=r"imagenet1k_v1: cifar_resnet is no network of torchvision"):
        weights_file({"_target_": "paredown.models.resnet.cifar_resnet", "weights": "imagenet1k_v1"})
    with pytest.raises(UserError, match=r"model\.weights=resnet\.pth: no such file \(a path, a URL, or imagenet1k_v1"):
        weights_file({"weights": "resnet.pth"})
