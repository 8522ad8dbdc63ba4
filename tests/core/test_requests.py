"""What a person may type wrong after a command without Hydra, and the one line that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paredown.bench import request as bench
from paredown.core.errors import UserError
from paredown.core.requests import Failure, as_setting, exit_codes
from paredown.export import request as export
from paredown.report import request as report

KNOWN = ["sparsity", "method", "seed"]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--sparsity 0.9", "'--sparsity': write sparsity=0.9"),
        ("--sparsity=0.9", "'--sparsity=0.9': write sparsity=0.9"),
        ("-sparsity 0.9", "'-sparsity': write sparsity=0.9"),
        ("sparsity 0.9", "'sparsity': write sparsity=0.9"),
        ("method=ssc --method.g 3 seed=1", "'--method.g': write method.g=3"),
        ("sparsity = 0.9", "'sparsity': write sparsity=0.9"),
        ("--seed", "'--seed': write seed=value"),
        ("--seed method=ssc", "'--seed': write seed=value"),
        ("--cfg job --package method sparsity=0.9", None),
        ("--help", None),
        ("help", "'help': write --help"),
        ("--cfg help", None),
        ("", None),
        ("sparsity=0.9 other 3", None),
    ],
)
def test_a_setting_in_another_form_is_written_as_it_should_be(line: str, meant: str | None) -> None:
    found = as_setting(line.split(), KNOWN)
    assert found == (None if meant is None else f"cannot read {meant}")


MISTAKES: dict[Callable[[list[str]], object], dict[str, str]] = {
    bench.parse: {
        "": "bench what",
        "run=abcd model=resnet20": "unknown key 'model'",
        "--model resnet20": "cannot read '--model': write model=resnet20",
        "run=abcd batches=1": "unknown key 'batches': did you mean batch",
        "modl=vgg19": "unknown key 'modl': did you mean model",
        "model=resnet20 metod.g=8": "unknown key 'metod.g': did you mean method",
        "model=resnet20 bacth=32": "unknown key 'bacth': did you mean batch",
        "method=ssc model": "cannot read 'model': write model=value",
        "run=abcd deploy": "cannot read 'deploy': write deploy=value",
        "model=resnet20 batch=1,none": r"batch='none' \(a whole number, at least 1\)",
        "model=resnet20 deploy=fast": "deploy='fast': did you mean auto",
    },
    export.parse: {
        "format=onnx": "export what",
        "run=abcd verify=folder": "not both",
        "run=abcd format=onxx": "format='onxx': did you mean onnx",
        "run=abcd opset=new": r"opset='new' \(a whole number, at least 1, or null\)",
        "run=abcd formats=onnx": "unknown key 'formats': did you mean format",
        "run=abcd onnx": "cannot read 'onnx': write key=value",
        "416e8aff": "cannot read '416e8aff': write run=416e8aff",
        ". format=onnx": r"cannot read '\.': write run=\.",
        "run=abcd deploy=": "deploy= is empty",
    },
    report.parse: {
        "": "a report on what",
        "x=cost/macs": "a report on what",
        "swep=a": "unknown key 'swep': did you mean sweep",
        "whole": "cannot read 'whole': write key=value",
        "416e8aff037e": "cannot read '416e8aff037e': write runs=416e8aff037e",
        "sweep=": "sweep= is empty",
        "runs=[]": "a report on what",
        "sweep=a certified=maybe": r"certified='maybe' \(true or false\)",
        "sweep=a'or'b": "no name has a quote",
    },
}
CASES = [(parse, words, line) for parse, lines in MISTAKES.items() for words, line in lines.items()]


@pytest.mark.parametrize(("parse", "words", "line"), CASES, ids=lambda value: str(getattr(value, "__module__", value)))
def test_a_mistake_is_one_line(parse: Callable[[list[str]], object], words: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        parse(words.split())
    assert "\n" not in str(caught.value)


def test_words_become_values_of_the_fields_types(tmp_path: Path) -> None:
    words = ["model=resnet20", "batch=[1, 8]", "threads=null", "seconds=1e-1", f"output={tmp_path}", "folder=~/timed"]
    request = bench.parse([*words, "--tracking.uri=http://host:1", "method.g=3"])
    assert request == bench.Request(
        overrides=("model=resnet20", "method.g=3"),
        batch=(1, 8),
        seconds=0.1,
        output=tmp_path,
        folder=Path.home() / "timed",
        uri="http://host:1",
    )


def test_ids_of_digits_stay_text() -> None:
    assert export.parse(["run=00123e45", "format=onnx, onnx"]).run == "00123e45"
    assert report.parse(["runs=[0012,1e5]", "certified=true"]).runs == ("0012", "1e5")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such model"), 2, "paredown: no such model\n"),
        (Failure("not equal"), 1, "paredown: not equal\n"),
        (KeyboardInterrupt(), 130, "paredown: interrupted, go on\n"),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_code(error, code, line, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes("interrupted, go on"):
        raise error
    assert (ended.value.code, capsys.readouterr().err) == (code, line)
