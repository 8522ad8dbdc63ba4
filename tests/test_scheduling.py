"""The distribution of the slow tests over processes: one Ray at a time on a machine."""

from __future__ import annotations

import pytest


class Asked:
    """The options of `pytest -n 2 --dist ...`, as xdist asks for them."""

    def __init__(self, dist: str) -> None:
        self.values = {"dist": dist, "tx": ["popen", "popen"]}

    def getvalue(self, name: str) -> object:
        return self.values.get(name)


def test_all_that_start_a_ray_go_to_one_process(request) -> None:
    pytest.importorskip("xdist")
    make = request.config.hook.pytest_xdist_make_scheduler
    scope = make(config=Asked("loadgroup"), log=None)._split_scope
    faults, whole = "tests/sweep/test_faults.py::test_one", "tests/sweep/test_whole.py::test_two[0-1]"
    assert scope(faults) == scope(whole) == "ray"
    other = "tests/sweep/test_spec.py::test_one"  # starts none
    assert scope(other) == other
    assert make(config=Asked("load"), log=None) is None
