"""Code that a configuration or a state names: found and digested without running it, run only where it is trusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paredown.core import trust
from paredown.core.config import compose, compose_all
from paredown.core.errors import UserError
from paredown.core.source import find_source, load_source

NET = """
from pathlib import Path
Path(__file__).with_name("RAN").touch()
from parts import WIDTH
def Net(): return WIDTH
LAMBDA = lambda: 3
"""
MODULE = "from torch import nn\nclass Net(nn.Module): ...\n"


@pytest.fixture(autouse=True)
def _no_trust_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trust, "_TRUSTED", set())
    monkeypatch.delenv(trust.ENVIRONMENT, raising=False)
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that marks its execution, and imports another beside it."""
    (tmp_path / "parts.py").write_text("WIDTH = 7\n")
    (path := tmp_path / "net.py").write_text(NET)
    return path


def ran(file: Path) -> bool:
    return file.with_name("RAN").exists()


def load(file: Path, name: str = "Net", digest: str | None = None) -> object:
    return load_source(find_source(f"{file}:{name}", "model.source", digest), digest, "model.source")


def test_a_file_is_run_where_it_is_trusted_alone(file: Path) -> None:
    with pytest.raises(
        UserError, match=rf"{file}:Net is not run: it would execute {file} \(6 lines and 1 files"
    ) as said:
        load(file)
    assert f"trust={file}" in str(said.value) and f"PAREDOWN_TRUST={file}" in str(said.value) and not ran(file)
    trust.trust([str(file.with_name("other.py")), str(file.parent)])
    with pytest.raises(UserError, match="is not run"):
        load(file)
    trust.trust([str(file)])
    assert load(file)() == 7 and ran(file)  # type: ignore[operator]


def test_the_environment_trusts_whole_paths_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    for name in (f"{file}:Net", "~/net.py"):
        monkeypatch.setenv(trust.ENVIRONMENT, f"some.package, {name}")
        assert callable(load(file))
        assert trust.trusted("some.package.Net") and not trust.trusted("some.packages.Net")
    for name in ("net.py", "./net.py", "net.py:Net"):
        monkeypatch.setenv(trust.ENVIRONMENT, f"some.package,{name}")
        with pytest.raises(UserError, match="another file in every folder: give its whole path"):
            load(file)


@pytest.mark.parametrize("changed", ["net.py", "parts.py"])
def test_a_changed_text_is_another_digest_and_not_run(file: Path, changed: str) -> None:
    digest = find_source(f"{file}:Net", "x").digest
    assert find_source(f"{file}:LAMBDA", "x").digest != digest
    path = file.with_name(changed)
    path.write_text(f"{path.read_text()}# an edit\n")
    assert find_source(f"{file}:Net", "x").digest != digest
    trust.trust([str(file)])
    with pytest.raises(UserError, match=rf"has changed since \(digest \w+, not {digest}\)"):
        load(file, digest=digest)
    assert not ran(file)


def test_an_edit_of_equal_length_in_the_same_second_is_what_runs(file: Path) -> None:
    trust.trust([str(file)])
    stamp = file.stat().st_mtime_ns
    assert load(file, "LAMBDA")() == 3  # type: ignore[operator]
    file.write_text(NET.replace("3", "4"))
    os.utime(file, ns=(stamp, stamp))
    assert load(file, "LAMBDA")() == 4  # type: ignore[operator]


def test_the_digest_does_not_depend_on_the_folder_and_a_moved_file_is_found_by_trust(
    file: Path, tmp_path: Path
) -> None:
    digest = find_source(f"{file}:Net", "x").digest
    (place := tmp_path / "elsewhere").mkdir()
    for name in ("net.py", "parts.py"):
        file.with_name(name).rename(place / name)
    with pytest.raises(UserError, match=rf"there is no file {file} \(put it back, or name where it is now.*trust=FILE"):
        load(file, digest=digest)
    trust.trust([str(place / "net.py")])
    assert load(file, digest=digest)() == 7  # type: ignore[operator]
    with pytest.raises(UserError, match="there is no file"):  # what is typed is what is meant
        load(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.py", "FILE.py:NAME or package.module:NAME"),
        ("net.py:", "FILE.py:NAME"),
        ("net.py:a.b", "FILE.py:NAME"),
        (":Net", "FILE.py:NAME"),
        ("os;x:Net", "FILE.py:NAME"),
        (None, "null"),
        (5, "5"),
        ("no_such_package.net:Net", "there is no module no_such_package"),
        ("json.no_such:Net", "there is no module json.no_such"),
        ("math:sqrt", "there is no module|no module of Python source"),
        ("nothing.py:Net", "there is no file"),
        ("json.decoder:JSONDecode", "has no JSONDecode: did you mean JSONDecode"),
    ],
)
def test_what_names_no_code_is_one_line(text: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_source(text, "model.source")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def Net(:", "is no Python: SyntaxError"),
        ("import no_such_thing\ndef Net(): ...", "cannot be imported: ModuleNotFoundError: No module named.*line 1 of"),
        ("import sys\nsys.exit(3)\ndef Net(): ...", "cannot be imported: SystemExit"),
        ("Net = 5", "is no function, and no class"),
        ("def Other(): ...", "has no Net: .*Other"),
        ("class Net: ...", "is no function, and no class"),
        ("from functools import partial\nNet = partial(print)", "is no function, and no class"),
        ("from subprocess import run as Net", "does not define Net.*name the module that defines it"),
        ("from subprocess import *\nfrom subprocess import run as Net", "does not define Net"),
        ("import subprocess\nNet = subprocess.run", "imported there from subprocess: name the module that defines it"),
        ("from torch.nn import Linear\nNet = Linear", "imported there from torch.nn.modules.linear"),
        ("import subprocess\ndef __getattr__(_): return subprocess.run", "imported there from subprocess"),
    ],
)
def test_code_that_cannot_be_run_is_one_line(tmp_path: Path, code: str, words: str) -> None:
    (path := tmp_path / "net.py").write_text(code)
    trust.trust([str(path)])
    with pytest.raises(UserError, match=words):
        load(path)


def test_a_module_of_a_package_is_neither_found_by_importing_nor_run_untrusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "strangers" / "nets"
    package.mkdir(parents=True)
    mark = "from pathlib import Path\nPath(__file__).with_name('RAN').touch()\n"
    for path in (package.parent / "__init__.py", package / "__init__.py"):
        path.write_text(mark)
    (package / "net.py").write_text(f"{mark}from .base import Net as Base\nclass Net(Base): ...\n")
    (package / "base.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = find_source("strangers.nets.net:Net", "model.source")
    names = [str(path.relative_to(source.root)) for path in source.texts]
    inner = [f"strangers/nets/{name}.py" for name in ("__init__", "base", "net")]
    assert names == ["strangers/__init__.py", *inner]  # all that an import runs
    with pytest.raises(UserError, match=r"trust=strangers\.nets\.net"):
        load_source(source, None, "model.source")
    assert not list(tmp_path.rglob("RAN"))
    trust.trust(["strangers.nets"])
    assert load_source(source, source.digest, "model.source")().__class__.__name__ == "Net"
    with pytest.raises(UserError, match="does not define Base"):
        find_source("strangers.nets.net:Base", "model.source")


def test_who_types_a_source_trusts_it_and_no_list_of_words_does(file: Path) -> None:
    words = ["model=custom", f"model.source={file}:Net", "model.arguments.width=3"]
    assert compose(words)["trust"] == [str(file)] and compose(words)["model"]["arguments"] == {"width": 3}
    assert compose([*words, "trust=[mine]"])["trust"] == ["mine", str(file)]
    (sweeps,) = compose_all([words])  # of a sweep's file
    assert sweeps["trust"] == [] and sweeps["model"]["arguments"] == {"width": 3}


def test_a_plugin_is_no_trust_for_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "plugins", lambda: frozenset({"plugged"}))
    assert trust.trusted("plugged.Net")
    with pytest.raises(UserError, match="is not run"):
        load_source(find_source("plugged:Net", "model.source"), None, "model.source")


def sibling(folder: Path, text: str, net: str = "from layers import K\ndef Net(): return K\n") -> Path:
    """Write net.py, and layers.py of `text` beside it, and trust net.py."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "layers.py").write_text(text)
    (path := folder / "net.py").write_text(net)
    trust.trust([str(path)])
    return path


@pytest.mark.parametrize(
    "net",
    [
        "from layers import K\ndef Net(): return K\n",
        "from .layers import K\ndef Net(): return K\n",
        "import layers as other\ndef Net(): return other.K\n",
        "def Net():\n    import layers\n    return layers.K\n",
        "def Net():\n    from layers import K\n    return K\n",
    ],
)
def test_files_of_one_name_and_edited_ones_do_not_meet(tmp_path: Path, net: str) -> None:
    first, second = sibling(tmp_path / "a", "K = 1\n", net), sibling(tmp_path / "b", "K = 2\n", net)
    known = sys.modules.get("layers")  # of tests/layers
    before = load(first)
    assert (before(), load(second)()) == (1, 2)  # type: ignore[operator]
    stamp = first.with_name("layers.py").stat().st_mtime_ns
    sibling(tmp_path / "a", "K = 3\n", net)
    os.utime(first.with_name("layers.py"), ns=(stamp, stamp))
    assert (load(first)(), before()) == (3, 1)  # type: ignore[operator]
    assert sys.modules.get("layers") is known and str(first.parent) not in sys.path


def test_equal_texts_of_two_folders_know_where_they_are(tmp_path: Path) -> None:
    net = "from layers import HERE\ndef Net(): return HERE\n"
    paths = [sibling(tmp_path / name, "HERE = __file__\n", net) for name in "ab"]
    found = [load(path)() for path in paths]  # type: ignore[operator]
    assert found == [str(path.with_name("layers.py")) for path in paths]


def test_packages_beside_a_file(tmp_path: Path) -> None:
    path = sibling(
        tmp_path,
        "import net\nK = 1\n",
        "import parts.deep.one\nimport parts.deep.one as one\nfrom parts import two\nimport layers\n"
        "import torch\ndef Net(): return parts.deep.one.K, one.K, two.K, layers.K, torch.__name__\n",
    )
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    (tmp_path / "parts" / "two.py").write_text("from .deep import one\nK = one.K + 1\n")
    (tmp_path / "parts" / "deep" / "one.py").write_text("K = 4\n")
    assert load(path)() == (4, 4, 5, 1, "torch")  # type: ignore[operator]
    path.rename(moved := tmp_path / "net-2.b.py")
    trust.trust([str(moved)])
    (tmp_path / "layers.py").write_text("K = 1\n")
    assert load(moved)()[0] == 4  # type: ignore[operator]


def cached(path: Path, text: str) -> Path:
    """Write bytecode of another `text` where Python looks for that of `path`, to be taken unchecked."""
    import importlib.util
    import py_compile

    (other := path.with_name("other.txt")).write_text(text)
    place = importlib.util.cache_from_source(str(path))
    py_compile.compile(str(other), place, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return Path(place)


def test_cached_bytecode_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sibling(tmp_path, "K = 1\n")
    cached(path.with_name("layers.py"), "K = 666")
    cached(path, "def Net(): return 667")
    assert load(path)() == 1  # type: ignore[operator]
    (package := tmp_path / "cachedpack").mkdir()
    for name, text in (
        ("__init__", ""),
        ("net", "from .layers import K\ndef Net(): return K\n"),
        ("layers", "K = 1\n"),
    ):
        (package / f"{name}.py").write_text(text)
        cached(package / f"{name}.py", "K = 666\ndef Net(): return 668")
    monkeypatch.syspath_prepend(str(tmp_path))
    trust.trust(["cachedpack"])
    for number in (1, 2):
        (package / "layers.py").write_text(f"K = {number}\n")
        assert load_source(find_source("cachedpack.net:Net", "x"), None, "x")() == number


def test_a_package_that_changed_after_its_import_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "importedbefore.py").write_text("def Net(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    importlib.import_module("importedbefore")
    path.write_text("def Net(): return 22\n")
    trust.trust(["importedbefore"])
    with pytest.raises(UserError, match=r"was imported by this process from .*: start anew"):
        load_source(find_source("importedbefore:Net", "x"), None, "x")


@pytest.mark.parametrize("name", ["layers.so", "layers.pyc", "layers.abi3.so"])
def test_compiled_code_beside_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = sibling(tmp_path, "")
    path.with_name("layers.py").unlink()
    path.with_name(name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"net\.py imports .*{name}, which is no Python source"):
        load(path)


@pytest.mark.parametrize(
    "net",
    [
        "from importlib import import_module\nK = import_module('beside_alone').K\n",
        "K = __import__('beside_' + 'alone').K\n",
    ],
)
def test_a_file_that_no_import_statement_names_is_not_found(tmp_path: Path, net: str) -> None:
    path = sibling(tmp_path, "K = 1\n", f"{net}def Net(): return K\n")
    (tmp_path / "beside_alone.py").write_text("K = 1\n")
    with pytest.raises(UserError, match=r"No module named 'beside_alone', line \d of"):
        load(path)


def test_a_file_named_as_an_installed_module_is_what_the_digest_says(tmp_path: Path) -> None:
    net = "from mlflow import K\nimport json\ndef Net(): return K, json.dumps(K)\n"
    path = sibling(tmp_path, "", net)
    (tmp_path / "mlflow.py").write_text("K = 3\n")
    (tmp_path / "json.py").write_text("dumps = 5\n")
    source = find_source(f"{path}:Net", "x")
    assert [one.name for one in source.texts] == ["mlflow.py", "net.py"]  # json is Python's
    assert load(path)() == (3, "3")  # type: ignore[operator]
