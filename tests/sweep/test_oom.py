"""Deaths parsed from Ray's message about processes that it killed for memory."""

from __future__ import annotations

import pytest

pytest.importorskip("ray.tune")
from paredown.sweep.oom import worker_death

SELECTED = (
    "Selected to kill: (Actor({}): job ID=01000000, lease ID=02, task name=ImplicitFunc.__init__, required resources="
    "{{CPU_group_b9: 1, bundle_group_b9: 0.001}}, pid=10975, actual memory used={}GB, worker ID=77)"
)
MESSAGE = "\n".join(
    [
        "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 56c732) "
        "was 4.74GB used / 23.54GB limit (0.201390)",
        "OOM kill reason: Memory usage 5066248192B exceeded threshold of 5055300608B (20.0% of 25276502016B limit)",
        "Considered workers: [",
        SELECTED.format("36b79e", "0.52"),
        SELECTED.format("2a99ac", "2.87"),
        "]",
    ]
)


@pytest.mark.parametrize(("actor", "own", "counts"), [("36b79e", "0.52GB", False), ("2a99ac", "2.87GB", True)])
def test_the_one_that_took_most_is_to_blame(actor: str, own: str, counts: bool) -> None:
    error = worker_death(MESSAGE, actor)
    assert error.preempted is not counts
    assert str(error).startswith(f"out of memory: Ray killed it at {own}, on a node with 4.74GB of 23.54GB in use; ")


@pytest.mark.parametrize(("message", "actor"), [("", "36b79e"), ("another page", "36b79e"), (MESSAGE, "ffffff")])
def test_what_cannot_be_read_counts(message: str, actor: str) -> None:
    error = worker_death(message, actor)
    assert not error.preempted and "out of memory: Ray killed it, on a node" in str(error)
