"""What is typed after src/report.py."""

from __future__ import annotations

import pytest

from paredown.core.errors import UserError
from paredown.report.request import Request, parse


def test_a_request_as_typed() -> None:
    request = parse(["sweep=a", "--budget=speed_up>=3", "tracking.uri=http://host:1", "x=cost/params"])
    assert request == Request(sweep="a", budget="speed_up>=3", uri="http://host:1", x="cost/params")
    assert parse(["runs=[ab, cd,ab]"]).runs == parse(["runs=ab,cd"]).runs == ("ab", "cd")
    assert parse(["dataset=cifar10", "model=resnet20"]).title == "cifar10-resnet20"


def test_other_runs_beside_the_same_first_are_another_report() -> None:
    titles = [Request(runs=runs).title for runs in (("a", "b"), ("a", "c"), ("b", "a"))]
    assert titles[0] != titles[1] and titles[0] == titles[2] and titles[0].startswith("2-runs-a-")
    assert Request(runs=("0123456789ab",)).title == "1-runs-01234567"


@pytest.mark.parametrize("budget", [",", " , ", ""])
def test_a_budget_that_bounds_nothing_is_refused(budget: str) -> None:
    with pytest.raises(UserError, match="bounds nothing: write METRIC>=NUMBER"):
        Request(sweep="a", budget=budget)
