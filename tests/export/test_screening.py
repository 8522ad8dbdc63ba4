"""Programs from strangers: what torch would unpickle, evaluate, import or call is not handed to it."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.export import program_file
from paredown.export.files import Source
from paredown.export.screening import PROGRAM, screened
from paredown.runtime.optimise import build


@pytest.fixture(scope="module")
def whole(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    program_file.write(source, path)
    return path


def changed(whole: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write `whole` with `change` applied to its program's JSON to `path`."""
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(PROGRAM):
                values = json.loads(content)
                change(values)
                assert values != json.loads(content)
                content = json.dumps(values).encode()
            new.writestr(name, content)
    return path


def nodes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return values["graph_module"]["graph"]["nodes"]


def everywhere(value: Any, key: str, text: str) -> None:
    """Set `key` to `text` wherever it is."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        everywhere(part, key, text)
    if isinstance(value, dict) and key in value:
        value[key] = text


def renamed(values: dict[str, Any], text: str) -> None:
    """Call the images `text`, from which torch generates the source of `forward`."""
    old = json.dumps(values)
    new = old.replace('"images"', json.dumps(text))
    assert new != old
    values.clear()
    values.update(json.loads(new))


SPEC = """[1, {"type": "collections.defaultdict", "context": "{\\"default_factory_module\\": \\"evil\\",
 \\"default_factory_name\\": \\"x\\", \\"dict_context\\": []}", "children_spec": []}]"""
RUN = "__import__('pathlib').Path('EXECUTED').touch()"
HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a sum": lambda values: everywhere(values, "expr_str", RUN),
    "a function of sympy's": lambda values: everywhere(values, "expr_str", "lambdify(1, 1)"),
    "a power without end": lambda values: everywhere(values, "expr_str", "9**9**9**9"),
    "a long sum": lambda values: everywhere(values, "expr_str", "1+" * 9999 + "1"),
    "a symbol with more": lambda values: everywhere(values, "expr_str", f"Symbol('s0', integer={RUN})"),
    "torch's own functions": lambda values: nodes(values)[0].update(target="torch.hub.load"),
    "a module behind an operator": lambda values: nodes(values)[0].update(target="torch.ops.os.system"),
    "an attribute": lambda values: nodes(values)[0].update(target="torch.ops.aten.__class__.__subclasses__"),
    "a file": lambda values: nodes(values)[0].update(target="torch.ops.aten.from_file.default"),
    "math": lambda values: nodes(values)[0].update(target="math.factorial"),
    "an extension": lambda values: nodes(values)[0].update(target="#evil"),
    "a higher order": lambda values: nodes(values)[0].update(target="torch.ops.higher_order.cond"),
    "a function as argument": lambda values: nodes(values)[0]["inputs"].append(
        {"name": "x", "arg": {"as_operator": "torch.hub.load"}, "kind": 1}
    ),
    "a name": lambda values: renamed(values, f"images={RUN}"),
    "a name of two lines": lambda values: renamed(values, f"images):\n  {RUN}\n  pass #"),
    "a layer's name": lambda values: everywhere(values, "parameter_name", f'a", {RUN}, "'),
    "a module to import": lambda values: everywhere(values, "in_spec", SPEC),
    "a tree that is none": lambda values: everywhere(values, "out_spec", "[]"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_program_that_is_more_than_data_is_not_loaded(what: str, whole: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('EXECUTED').touch()\nx = list\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = changed(whole, tmp_path / "model.pt2", HOSTILE[what])
    with pytest.raises(UserError, match=r"model\.pt2") as raised:
        program_file.load(path)
    assert "\n" not in str(raised.value) and not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("name", ["save", "warn", "_print", "from_file"])
def test_an_operator_that_writes_or_speaks_is_not_called(name: str, whole: Path, tmp_path: Path) -> None:
    target = f"torch.ops.aten.{name}.default"
    path = changed(whole, tmp_path / "model.pt2", lambda values: nodes(values)[0].update(target=target))
    with pytest.raises(UserError, match=rf"'{target}' would be evaluated or called"):
        screened(path)


def test_guards_are_not_executed(whole: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed(whole, tmp_path / "model.pt2", lambda values: values["guards_code"].append(RUN))
    assert program_file.load(path).run(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("trick", ["twice", "in capitals", "another folder", "packed", "a path", "a script"])
def test_an_archive_that_readers_may_read_differently_is_refused(trick: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    more = {
        "twice": f"model/{PROGRAM}",
        "in capitals": f"model/{PROGRAM.upper()}",
        "another folder": f"other/{PROGRAM}",
    }
    more |= {"a path": "model/../../evil", "a script": "model/data/weights/../evil.py"}
    compression = zipfile.ZIP_DEFLATED if trick == "packed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", compression) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in old.namelist():
            new.writestr(name, old.read(name))
        if trick in more:
            new.writestr(more[trick], "{}")
    with pytest.raises(UserError, match=r"several members|is packed|holds pickled data"):
        program_file.load(path)


def test_torch_gets_what_was_read(whole: Path, tmp_path: Path) -> None:
    """Bytes before the archive, which readers place differently, do not arrive."""
    path = tmp_path / "model.pt2"
    path.write_bytes(b"#!/bin/sh\n" * 100 + whole.read_bytes())
    with zipfile.ZipFile(screened(path)) as made, zipfile.ZipFile(whole) as old:
        assert made.namelist() == old.namelist()
    assert program_file.load(path).run(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["torchvision.shufflenet_v2", "torchvision.efficientnet_b0", "cifar.vgg.vgg19_bn"])
@pytest.mark.slow
def test_every_kind_of_network_passes(name: str, tmp_path: Path) -> None:
    architecture = {"_target_": f"paredown.models.{name}", "num_classes": 4, "in_channels": 3}
    architecture |= {"width": 1.0} if "shuffle" in name else {}
    network = blueprint.create(architecture, (3, 64, 64))
    network.module.eval()
    path, images = tmp_path / "model.pt2", torch.randn(3, 3, 64, 64)
    program_file.write(Source(network, build(network, {}), {}, {"input": [3, 64, 64]}), path)
    loaded = program_file.load(path)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.run(images), network.module(images), rtol=1e-4, atol=1e-4)
