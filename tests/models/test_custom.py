"""Networks of a user's code: what they are given, what they may be, and what they may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paredown.core import blueprint, trust
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare

SMALL = ("dataset=digits", "recipe.precision=32", "trainer.accelerator=cpu", "model=custom")
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, n_classes=10, in_chans=1, img_size=8):
        super().__init__()
        self.size = img_size
        self.conv = nn.Conv2d(in_chans, width, 3, padding=1)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def fixed(): return Net(n_classes=1000)
def lazy(num_classes): return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
def half(): return Net().half()
def wrong(): return 5
def pruned():
    net = Net()
    from torch.nn.utils import prune
    prune.l1_unstructured(net.conv, "weight", 0.5)
    return net
def breaks(): raise KeyError("width")
def keywords(**settings): return Net(**settings)
class Branching(Net):
    def forward(self, x): return super().forward(x) if x.sum() > 1e9 else super().forward(x) + 0
class Second(Net):
    def forward(self, x): return (super().forward(x), x) if self.training else super().forward(x)
class Tied(Net):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(10, 10), nn.Linear(10, 10)
        self.two.weight = self.one.weight
    def forward(self, x): return self.two(self.one(super().forward(x)))
class Answer(Net):
    def forward(self, x): return {"logits": super().forward(x)}
"""


@pytest.fixture(autouse=True)
def _no_trust_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trust, "_TRUSTED", set())
    yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "net.py").write_text(NET)
    return path


@pytest.fixture
def made(file: Path, tmp_path: Path) -> Callable[..., Experiment]:
    def make(name: str, *words: str) -> Experiment:
        return prepare(compose([*SMALL, f"output={tmp_path / 'out'}", f"model.source={file}:{name}", *words]))

    return make


def test_arguments_are_the_users_and_those_of_the_images(made) -> None:
    module = made("Net", "model.arguments.width=6").dense().module
    assert (module.conv.in_channels, module.conv.out_channels, module.head.out_features, module.size) == (1, 6, 10, 8)
    assert made("keywords", "model.arguments.width=5").dense().module.conv.out_channels == 5
    assert made("lazy").dense().module[2].out_features == 10


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("Net", ["model.arguments.depth=3"], r"model\.arguments\.depth is no argument of .*net\.py:Net: .*width"),
        ("Net", ["model.arguments.width=wide"], r"Net\(.*width='wide'\) raised TypeError"),
        ("Net", ["model.head=other"], "model.head='other'.*keep"),
        ("fixed", [], "Net has 1000 outputs, the data set 10 classes: .*model.head=new"),
        ("half", [], "conv.weight is torch.float16"),
        ("wrong", [], "returns a int, not a torch.nn.Module"),
        ("breaks", [], r"breaks\(\) raised KeyError: 'width', line \d+ of .*net\.py"),
        ("pruned", [], r"the network cannot be copied \(conv\.weight\), .*torch\.nn\.utils\.prune\.remove"),
        ("Answer", [], "Answer returns a dict of logits, not logits"),
        ("Missing", [], "has no Missing"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_trained(made, name: str, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _ = made(name, *words).steps


@pytest.mark.parametrize("source", ["5", "[a]", "net.py", "net.py:", ":Net", "net.py:1x"])
def test_what_is_no_source_is_named_by_its_own_setting(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.source="):
        prepare(compose([*SMALL, f"output={tmp_path}", f"model.source={source}"]))


@pytest.mark.parametrize("preprocessing", ["foo", "null", "1"])
def test_preprocessing_is_one_of_two(preprocessing: str, tmp_path: Path) -> None:
    words = ["dataset=digits", "model=torchvision", "model.name=resnet18", f"model.preprocessing={preprocessing}"]
    with pytest.raises(UserError, match=r"model\.preprocessing="):
        prepare(compose([*words, f"output={tmp_path}"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=zhang", "speed_up=1.2"], "torch.fx cannot trace Branching: TraceError"),
        (["method=magnitude", "sparsity=0.5", "deploy=auto"], "torch.fx cannot trace Branching.*take deploy=plain"),
        (["method=magnitude", "sparsity=0.5"], None),
        (["method=lr_s2", "sparsity=0.2", "method.select=all"], None),
    ],
)
def test_a_network_that_fx_cannot_follow(made, words: list[str], said: str | None) -> None:
    experiment = made("Branching", *words)
    if said is None:
        assert experiment.steps
        return
    with pytest.raises(UserError, match=said):
        _ = experiment.steps


def test_a_new_head_for_a_network_of_other_classes(made) -> None:
    assert made("fixed", "model.head=new").dense().module.head.out_features == 10


def test_a_state_holds_where_it_comes_from_and_loads_for_who_trusts_it(made, file: Path, tmp_path: Path) -> None:
    network = made("Net").dense()
    blueprint.save(network, tmp_path)
    assert network.architecture["source"] == f"{file}:Net" and len(network.architecture["digest"]) == 20
    again = blueprint.load(tmp_path)
    assert torch.equal(again.conv.weight, network.module.conv.weight)
    trust._TRUSTED.clear()
    with pytest.raises(UserError, match=rf"is not run: .* add trust={file}") as refusal:
        blueprint.load(tmp_path)
    assert "restore it" not in str(refusal.value)
    trust.trust([str(file)])
    file.write_text(NET + "# edited")
    with pytest.raises(UserError, match="has changed since"):
        blueprint.load(tmp_path)


def test_the_key_is_that_of_the_text_wherever_it_is(made, file: Path, tmp_path: Path) -> None:
    before = made("Net").steps[-1].key
    assert made("Net", "model.arguments.width=5").steps[-1].key != before
    (moved := tmp_path / "moved").mkdir()
    (moved / "net.py").write_text(NET)
    words = [*SMALL, f"output={tmp_path / 'out'}", f"model.source={moved / 'net.py'}:Net"]
    assert prepare(compose(words)).steps[-1].key == before
    file.write_text(NET + "# edited")
    assert made("Net").steps[-1].key != before


def test_a_recorded_run_is_refused_with_another_text(made, file: Path) -> None:
    recorded = made("Net").settled
    assert prepare(recorded).key == made("Net").key
    file.write_text(NET + "# edited")
    with pytest.raises(UserError, match=rf"has changed since .*not {recorded['model']['digest']}"):
        prepare(recorded)
    with pytest.raises(UserError, match=r"has changed since .*not 12345678901234567890"):
        made("Net", "model.digest=12345678901234567890")


def test_recorded_weights_are_refused_when_their_file_has_changed(made, tmp_path: Path) -> None:
    save_file(made("Net").dense().module.state_dict(), path := tmp_path / "net.safetensors")
    recorded = made("Net", f"model.weights={path}").settled
    assert prepare(recorded).key == made("Net", f"model.weights={path}").key
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=rf"has changed since .*not {recorded['model']['weights_digest']}"):
        prepare(recorded)


def start(experiment: Experiment) -> Network:
    return experiment.dense()


def test_weights_of_other_classes_with_a_new_head(made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "paredown")
    theirs = made("Net", "model.arguments.n_classes=7", "dataset.classes=7").dense().module
    save_file(theirs.state_dict(), path := tmp_path / "seven.safetensors")
    with pytest.raises(
        UserError, match=r"knows 7 classes, the data set has 10: only the classifier \(head\).*head=new"
    ):
        _ = made("Net", f"model.weights={path}").steps
    experiment = made("Net", f"model.weights={path}", "model.head=new")
    ours = start(experiment).module
    assert torch.equal(ours.conv.weight, theirs.conv.weight) and ours.head.out_features == 10
    assert "model.head=new: the classifier head (10 classes) starts anew; the one of 7 classes" in caplog.text
    plain, fresh = (
        made("Net", f"model.weights={path}", "dataset.classes=7", *more) for more in ([], ["model.head=new"])
    )
    assert torch.equal(start(plain).module.head.weight, theirs.head.weight)
    assert not torch.equal(start(fresh).module.head.weight, theirs.head.weight)
    assert plain.steps[-1].key != fresh.steps[-1].key


def test_a_state_picks_nothing_that_the_file_imports_and_wants_a_digest(made, file: Path, tmp_path: Path) -> None:
    file.write_text(f"from subprocess import run\n{NET}")
    network = made("Net").dense()
    mark, hostile = tmp_path / "PWNED", dict(network.architecture)
    hostile |= {"source": f"{file}:run", "arguments": {"args": ["touch", str(mark)]}}
    for digest in ({}, {"digest": None}, {"digest": ""}, {"digest": hostile["digest"]}):
        architecture = {name: value for name, value in hostile.items() if name != "digest"} | digest
        with pytest.raises(UserError):
            blueprint.build(architecture, {})
    assert not mark.exists()
    for digest in ({}, {"digest": None}, {"digest": ""}):
        architecture = {name: value for name, value in network.architecture.items() if name != "digest"} | digest
        with pytest.raises(UserError, match=r"digest|has changed since"):
            blueprint.build(architecture, {})
    blueprint.build(network.architecture, {})


def test_a_second_output_in_training_is_refused_before_anything_is_trained(made) -> None:
    with pytest.raises(UserError, match="Second returns a tuple in training mode, not logits"):
        _ = made("Second", "method=magnitude", "sparsity=0.5").steps


def test_tied_weights_are_stored_and_tied_again(made, tmp_path: Path) -> None:
    dense = made("Tied", "method=dense").dense()
    blueprint.save(dense, tmp_path)
    found = blueprint.load(tmp_path)
    assert found.one.weight is found.two.weight
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(found(images), dense.module.eval()(images))
