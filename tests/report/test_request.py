"""What is typed after src/report.py."""

from __future__ import annotations

from paredown.report.request import Request, parse


def test_a_request_as_typed() -> None:
    request = parse(["sweep=a", "--budget=speed_up>=3", "tracking.uri=http://host:1", "x=cost/params"])
    assert request == Request(sweep="a", budget="speed_up>=3", uri="http://host:1", x="cost/params")
    assert parse(["runs=[ab, cd,ab]"]).runs == parse(["runs=ab,cd"]).runs == ("ab", "cd")
    assert parse(["dataset=cifar10", "model=resnet20"]).title == "cifar10-resnet20"
