"""What every reader makes of damage, and what a writer leaves behind."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paredown.core import files
from paredown.core.errors import LONGEST, MOST, UserError, nearest, printable, reason
from paredown.core.files import (
    LARGEST_TEXT,
    read_json,
    read_plain,
    read_tensors,
    read_text,
    reading,
    replacing,
    storage_failure,
    write_tensors,
    write_text,
)
from paredown.core.yaml_files import LARGEST_YAML, read_yaml


class Panic(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no\nsense \x1b[31m"),
        KeyError("x"),
        RecursionError(),
        Panic("index"),
        IndexError(),
        OSError(),
    ],
    ids=repr,
)
def test_whatever_is_raised_becomes_one_line_with_the_way_out(error: BaseException) -> None:
    with (
        pytest.raises(UserError, match=r"^a/b cannot be read: .+ \(delete it\)$") as raised,
        reading("a/b", "delete it"),
    ):
        raise error
    assert str(raised.value).isprintable() and raised.value.__cause__ is error


def test_errors_that_name_the_file_are_left_and_others_get_it() -> None:
    for said, becomes in {"a/b is odd": "a/b is odd", "odd": r"a/b: odd \(delete it\)"}.items():
        with pytest.raises(UserError, match=f"^{becomes}$"), reading("a/b", "delete it"):
            raise UserError(said)
    with pytest.raises(KeyboardInterrupt), reading("a/b", "delete it"):
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Shape:
    """What a test reads."""

    name: str
    size: tuple[int, int]
    rows: list[dict[str, int | float]] = field(default_factory=list)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name": "a", "size": [1, "2"]}', r"size.1: .*integer"),
        ('{"name": "a", "size": [1, true]}', r"size.1: .*integer"),
        ('{"name": "a", "size": [1]}', "size"),
        ('{"name": null, "size": [1, 2]}', "name: .*string"),
        ('{"size": [1, 2]}', "name: Field required"),
        ('{"name": "a", "size": [1, 2], "rows": [{"x": "1"}]}', r"rows\.0\.x"),
        ("[" * 100_000, "recursion limit"),
        ('{"name": "a', "EOF"),
        ("9" * 10_000, "number out of range"),
        ("", "EOF"),
        ('"\\ud800"', "hex escape"),
    ],
)
def test_json_of_another_shape_names_the_first_part_that_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text(text)
    for read in (read_json, read_plain):
        with pytest.raises(UserError, match=rf"a\.json: .*{says}.* \(delete it\)"):
            read(path, Shape, "delete it")


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    (path := tmp_path / "a.json").write_text('{"name": "é", "size": [1, 2], "rows": [{"a": 1, "b": 0.1}], "more": [1]}')
    assert read_json(path, Shape, "") == Shape("é", (1, 2), [{"a": 1, "b": 0.1}])
    assert read_plain(path, Shape, "")["more"] == [1]
    assert type(read_json(path, Shape, "").rows[0]["a"]) is int


def test_what_is_no_file_or_too_large_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (large := tmp_path / "large").touch()
    os.truncate(large, LARGEST_TEXT + 1)
    for path, says in {
        pipe: "is no file",
        tmp_path: "is no file",
        large: "more than",
        tmp_path / "none": "is missing",
    }.items():
        with pytest.raises(UserError, match=says):
            read_text(path, "delete it")
    with pytest.raises(UserError, match=r"latin cannot be read: 'utf-8' codec"):
        (tmp_path / "latin").write_bytes(b"\xe9")
        read_text(tmp_path / "latin", "delete it")


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)
YAMLS = {
    LAUGHS: "more than 100,000 values",
    "a: &a [*a]\n": r"the alias \*a repeats itself",
    "a: *b\n": "repeats itself or nothing",
    "a: " + "[" * 60 + "]" * 60: "more than 50 levels",
    "[" * 100_000: "more than 50 levels",
    "a: " + "${b}" * 30 + "\nb: 1\n": "30 references",
    "a: !!python/object/apply:os.system [ls]\n": "could not determine a constructor",
    "a: ${a}\n": "ecursion|cycle|interpolation",
    "a: ${oc.env:HOME}\n": r"it calls \$\{oc\.env:",
    'a: "\\x24{ oc.env:HOME}"\n': r"it calls \$\{ oc\.env:",
    'a: ["tracking.experiment=${oc.decode:x}"]\n': r"it calls \$\{oc\.decode:",
    'a: $\nb: "${a}{oc.env:HOME}"\n': r"it makes \$\{oc\.env:",
    "a: ${oc.env :HOME}\n": r"it calls \$\{oc\.env :",
    'd: env\noverrides: ["tracking.experiment=${oc.${d}:HOME}"]\n': r"it calls \$\{oc\.\$\{d\}:HOME",
    "'${oc.env:HOME}': 1\n": r"it calls \$\{oc\.env:",
    "a: x=\\${oc.env:HOME}\n": r"it makes \$\{oc\.env:",
    "a: ${oc.env:HOME\n": r"it calls \$\{oc\.env:",
    "a: [1\n": "expected ',' or ']'",
    "a: 2026-99-99\n": None,
    "a: 1\na: 2\n": "duplicate key",
    "# " + "x" * LARGEST_YAML: "more than 1,048,576",
}


@pytest.mark.parametrize("text", YAMLS, ids=range(len(YAMLS)))
def test_yaml_is_bounded(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.yaml").write_text(text)
    says = YAMLS[text]
    if says is None:
        assert read_yaml(path, "mend it") == {"a": "2026-99-99"}
        return
    with pytest.raises(UserError, match=rf"a\.yaml.*(?:{says}).*\(mend it\)"):
        read_yaml(path, "mend it")


def test_aliases_and_references_in_measure_are_read(tmp_path: Path) -> None:
    (path := tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: *a\nc: ${a.x}\n")
    assert read_yaml(path, "") == {"a": {"x": 1}, "b": {"x": 1}, "c": 1}


def test_tensors_cut_short_are_named(tmp_path: Path) -> None:
    write_tensors(path := tmp_path / "a.safetensors", {"x": torch.ones(10)}, {"note": "1"})
    assert torch.equal(load_file(path)["x"], torch.ones(10))
    for content in (path.read_bytes()[:-1], b"", (10**11).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.safetensors cannot be read: .* \(delete it\)"):
            read_tensors(path, "delete it")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a renamed file may be empty, unless its bytes, and then its name, were waited for."""
    done: list[str] = []
    rename = Path.replace
    monkeypatch.setattr(files, "sync", lambda path: done.append(f"sync {path.name}"))
    monkeypatch.setattr(Path, "replace", lambda path, to: (done.append("rename"), rename(path, to))[1])
    write_text(tmp_path / "a", "text")
    assert done == [f"sync .a.{os.getpid()}", "rename", f"sync {tmp_path.name}"]
    assert (tmp_path / "a").read_text() == "text"


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_printable() -> None:
    assert printable("a\x1b[31m\n b\tc\u202e") == r"a\x1b[31m\n b\tc\u202e"


def test_a_fault_of_the_machine_is_no_damage() -> None:
    with pytest.raises(OSError, match="Input/output"), reading("a/b", "delete it"):
        raise OSError(errno.EIO, "Input/output error")
    words = r"^a/b needs more memory than there is, or is damaged \(delete it\)$"
    with pytest.raises(UserError, match=words), reading("a/b", "delete it"):
        raise MemoryError


def test_an_error_of_any_size_is_a_line_of_bounded_length() -> None:
    start, long = time.monotonic(), "\x1b" * 10**7
    assert len(str(UserError(long))) == MOST * len(r"\x1b") + len(" ... ")
    assert str(UserError(f"a/b is odd: {long} (delete it)")).endswith(" (delete it)")
    assert len(reason(ValueError(long))) <= LONGEST
    assert nearest("resnet20" * 10**6, ["resnet20"]) == "known: resnet20"
    assert nearest("resnet2", ["resnet20"]).startswith("did you mean resnet20?")
    assert time.monotonic() - start < 5


def test_a_path_that_is_not_printable_is_named_once() -> None:
    with pytest.raises(UserError) as raised, reading("a\nb", "delete it"):
        raise UserError("a\nb is bad")
    assert str(raised.value) == r"a\nb is bad"


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(OSError, match="No space") as raised, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path) and storage_failure(raised.value) == f"No space left on device: {path}"
