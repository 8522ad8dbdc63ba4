"""What a person may type wrong after a command without Hydra, and the one line that says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paredown.bench import request as bench
from paredown.errors import UserError
from paredown.export import request as export
from paredown.report import request as report

MISTAKES: dict[Callable[[list[str]], object], dict[str, str]] = {
    bench.parse: {
        "": "bench what",
        "run=abcd model=resnet20": "unknown key 'model'",
        "run=abcd batches=1": "unknown key 'batches': did you mean batch",
        "modl=vgg19": "unknown key 'modl': did you mean model",
        "model=resnet20 metod.g=8": "unknown key 'metod.g': did you mean method",
        "model=resnet20 bacth=32": "unknown key 'bacth': did you mean batch",
        "method=ssc model": "bench what",
        "run=abcd deploy": "cannot read 'deploy': write deploy=value",
        "model=resnet20 batch=1,none": "batch=none is not a whole number",
        "model=resnet20 deploy=fast": "unknown deploy 'fast'",
    },
    export.parse: {
        "format=onnx": "export what",
        "run=abcd verify=folder": "not both",
        "run=abcd format=onxx": "unknown format 'onxx': did you mean onnx",
        "run=abcd opset=new": "opset=new is not a whole number",
        "run=abcd formats=onnx": "unknown key 'formats': did you mean format",
        "run=abcd onnx": "cannot read 'onnx': write key=value",
        "run=abcd deploy=": "deploy= is empty",
    },
    report.parse: {
        "": "a report on what",
        "x=cost/macs": "a report on what",
        "swep=a": "unknown key 'swep': did you mean sweep",
        "whole": "cannot read 'whole': write key=value",
        "sweep=": "sweep= is empty",
        "runs=[]": "a report on what",
        "sweep=a certified=yes": "certified=yes is neither true",
        "sweep=a'or'b": "no name has a quote",
    },
}
CASES = [(parse, words, line) for parse, lines in MISTAKES.items() for words, line in lines.items()]


@pytest.mark.parametrize(("parse", "words", "line"), CASES, ids=lambda value: str(getattr(value, "__module__", value)))
def test_a_mistake_is_one_line(parse: Callable[[list[str]], object], words: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        parse(words.split())
    assert "\n" not in str(caught.value)
