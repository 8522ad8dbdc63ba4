"""A user's weights: every accepted form gives the same network, everything else is one line that says why."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

from paredown.core.errors import UserError
from paredown.models.checkpoints import _dictionaries
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.pretrained import load_pretrained, weights_file

FORMS = {
    "plain": lambda weights: weights,
    "lightning": lambda weights: {"epoch": 3, "state_dict": weights},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
    "parallel": lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    "compiled": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "net": lambda weights: {"net": weights, "acc": 93.1, "epoch": 199},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {0: {}}}},
    "a Lightning module": lambda weights: {
        "state_dict": {f"network.{name}": value for name, value in weights.items()} | {"loss.weight": torch.ones(10)},
        "hyper_parameters": {"rate": 0.1},
    },
    "an average": lambda weights: {
        "model_ema": {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in weights.items()}
    },
    "an average beside it": lambda weights: {
        "model_ema": {name: value + 1 for name, value in weights.items()},
        "model": weights,
    },
    "compiled blocks": lambda weights: {
        name.replace("layer1.", "layer1._orig_mod."): value for name, value in weights.items()
    },
    "parallel blocks": lambda weights: {
        name.replace("layer1.", "layer1.module."): value for name, value in weights.items()
    },
    "before 0.4.1": lambda weights: {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")},
}


def _pruned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a network of these weights saves once torch's own pruning has masked nothing of it."""
    module = cifar_resnet(8, 0.5)
    module.load_state_dict(weights)
    prune.custom_from_mask(module.conv, "weight", torch.ones_like(module.conv.weight))
    return module.state_dict()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, 0.5)


FORMS["pruned"] = _pruned


def refusal(module: nn.Module, path) -> str:
    with pytest.raises(UserError) as raised:
        load_pretrained(module, path, "fc")
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


def test_masks_of_torchs_pruning_are_applied(trained, tmp_path):
    module = cifar_resnet(8, 0.5)
    prune.random_unstructured(module.conv, "weight", 0.5)
    torch.save(module.state_dict(), path := tmp_path / "pruned.pt")
    load_pretrained(loaded := cifar_resnet(8, 0.5), path)
    assert torch.equal(loaded.conv.weight, module.conv.weight_orig * module.conv.weight_mask)
    assert (loaded.conv.weight == 0).float().mean() > 0.4


def test_a_network_that_is_there_twice_is_not_guessed(trained, tmp_path):
    both = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in trained.state_dict().items()}
    torch.save(both, path := tmp_path / "both.pt")
    assert "'student.' and below 'teacher.'" in refusal(cifar_resnet(8, 0.5), path)


def test_names_that_do_not_fit_are_shown_with_the_nearest(tmp_path):
    renamed = {name.replace("fc.", "linear."): value for name, value in cifar_resnet(8).state_dict().items()}
    torch.save({"net": renamed}, path := tmp_path / "other.pt")
    message = refusal(cifar_resnet(8), path)
    assert "no tensor 'fc.weight', 'fc.bias'" in message
    assert "2 tensors this network does not have: 'linear.weight', 'linear.bias'" in message
    assert "nearest to 'fc.weight' is 'linear.weight'" in message


ODD = {
    "int8": lambda tensor: (tensor * 127).to(torch.int8),
    "sparse": lambda tensor: tensor.to_sparse(),
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "nan": lambda tensor: tensor.clone().fill_(torch.nan),
    "infinite": lambda tensor: tensor.clone().fill_(torch.inf),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "bool": lambda tensor: tensor > 0,
}


@pytest.mark.parametrize("odd", ODD)
def test_tensors_that_are_no_weights_are_refused(odd, trained, tmp_path):
    weights = {name: ODD[odd](value) if value.dim() == 4 else value for name, value in trained.state_dict().items()}
    torch.save(weights, path := tmp_path / "odd.pt")
    assert "conv.weight" in refusal(cifar_resnet(8, 0.5), path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(kind, trained, tmp_path):
    weights = {n: value.to(kind) if value.is_floating_point() else value for n, value in trained.state_dict().items()}
    torch.save(weights, path := tmp_path / "other.pt")
    load_pretrained(module := cifar_resnet(8, 0.5), path)
    assert torch.allclose(module.conv.weight, trained.conv.weight, atol=0.01)


def test_an_archive_that_unpacks_to_more_than_it_holds_is_not_read(trained, tmp_path):
    torch.save(trained.state_dict(), path := tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(packed := tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member) if "data/" not in member.filename else b"\0" * 10**6)
    assert "would unpack to" in refusal(cifar_resnet(8, 0.5), packed)


def test_missing_file(trained, tmp_path):
    assert "no such file" in refusal(trained, tmp_path / "nothing.pt")
    assert "no such file" in refusal(trained, tmp_path)


def test_a_pickled_module_is_named_and_never_run(trained, tmp_path):
    torch.save({"net": trained}, path := tmp_path / "whole.pt")
    message = refusal(trained, path)
    assert "paredown.models.cifar.resnet.CifarResNet" in message
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
    assert "the data set has 10" in message
    assert "only the classifier (fc)" in message and "model.head=new" in message


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


def test_weights_that_there_are_not():
    assert weights_file({"weights": None}) is None
    with pytest.raises(UserError, match=r"imagenet1k_v1: cifar_resnet is no network of torchvision"):
        weights_file({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "weights": "imagenet1k_v1"})
    with pytest.raises(UserError, match=r"model\.weights=resnet\.pth: no such file \(a path, a URL, or imagenet1k_v1"):
        weights_file({"weights": "resnet.pth"})


def test_dictionaries_that_share_their_parts_are_looked_at_once() -> None:
    """40 keys of each of three levels lead to 64,000 paths to the same tensors."""
    shared: dict = {"weight": torch.zeros(1)}
    for _ in range(3):
        shared = {f"{number}": shared for number in range(40)}
    assert len(list(_dictionaries(shared))) == 1


def test_tied_weights_that_a_file_holds_once(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
        net[2].weight = net[0].weight
        return net

    save_file({"2.weight": torch.ones(4, 4)}, tmp_path / "once.safetensors")
    load_pretrained(net := tied(), tmp_path / "once.safetensors")
    assert net[0].weight is net[2].weight and torch.equal(net[0].weight, torch.ones(4, 4))
    with pytest.raises(UserError, match=r"it has no tensor '0\.weight'"):
        load_pretrained(
            nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), *tied()[2:]), tmp_path / "once.safetensors"
        )
