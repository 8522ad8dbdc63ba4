"""Controls in a sweep: added when their point is done, run after it, and no point of the sweep's own front."""

from __future__ import annotations

import pytest
from driving import Driver, runs

from paredown import execute
from paredown.errors import UserError
from paredown.sweep.board import Board
from paredown.sweep.file import load
from paredown.sweep.planning import plan
from paredown.sweep.tables import summary

POINTS = "points: [[method=dense], [method=ssc, speed_up=2]]\n"


def test_the_switch(written) -> None:
    words = written(POINTS)
    assert load(words).control_kinds == () and load([*words, "controls=true"]).control_kinds == (
        "random",
        "uniform",
        "dense",
    )
    assert load([*words, "controls=dense"]).control_kinds == ("dense",)
    assert load(written(POINTS + "controls: [random, dense]\n")).control_kinds == ("random", "dense")
    with pytest.raises(UserError, match=r"controls=\['rando'\] \(some of random, uniform, dense, or true\)"):
        load([*words, "controls=[rando]"])


def test_controls_wait_for_their_point(written) -> None:
    planned = plan(load([*written(POINTS), "controls=[random, dense]", "recipe.epochs=1", "tracking=off"]))
    assert summary(planned).endswith("when they are done, the controls of each compressed network: random, dense")
    board = Board(planned)
    board.add_controls()
    assert len(board.planned) == 2
    for point in planned.experiments:
        execute.carry_out(point.experiment)
    board = Board(planned)
    board.add_controls()
    board.add_controls()  # nothing new
    assert [each.label for each in board.waiting] == [
        "method=ssc speed_up=2 control=random",
        "method=ssc speed_up=2 control=dense",
    ]
    assert board.total == 4 and list(board.points) == [point.experiment.key for point in planned.experiments]
    front = board.front
    control = board.waiting[0]
    board.finish(board.start(control), {"cost/macs": 1.0, "final/top1": 100.0}, [])
    assert board.front == front and board.best < 100


@pytest.mark.slow
def test_a_sweep_runs_its_controls(written) -> None:
    words = [*written(POINTS), "controls=true", "recipe.epochs=1"]
    said = Driver(words).wait()
    assert "5 of 5 experiments done" in said
    again = Driver(words)
    assert "5 of 5 experiments done, 5 of them before" in again.wait()
    assert runs(again.output / "mlflow.db") == {"experiment FINISHED": 5, "sweep FINISHED": 1}
    report = (again.output / "sweeps" / "tiny" / "report.html").read_text()
    assert "<h2>Controls</h2>" in report and report.count("control=uniform") >= 1
