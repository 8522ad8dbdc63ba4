"""What is typed after src/report.py."""

from __future__ import annotations

import pytest

from paredown.errors import UserError
from paredown.report.request import Request, parse


def test_a_request_as_typed() -> None:
    request = parse(["sweep=a", "--budget=speed_up>=3", "tracking.uri=http://host:1", "x=cost/params"])
    assert request == Request(sweep="a", budget="speed_up>=3", uri="http://host:1", x="cost/params")
    assert parse(["runs=[ab, cd,ab]"]).runs == parse(["runs=ab,cd"]).runs == ("ab", "cd")
    assert parse(["dataset=cifar10", "model=resnet20"]).title == "cifar10-resnet20"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a report on what"),
        (["x=cost/macs"], "a report on what"),
        (["swep=a"], "unknown key 'swep': did you mean sweep"),
        (["whole"], "cannot read 'whole': write key=value"),
        (["sweep="], "sweep= is empty"),
        (["runs=[]"], "a report on what"),
        (["sweep=a", "certified=yes"], "certified=yes is neither true"),
        (["sweep=a' or 'b"], "no name has a quote"),
    ],
)
def test_a_mistake_is_one_line(words, line) -> None:
    with pytest.raises(UserError, match=line) as caught:
        parse(words)
    assert "\n" not in str(caught.value)
