"""Controls in a sweep: added when their point is done, run after it, and no point of the sweep's own front."""

from __future__ import annotations

import pytest
from driving import Driver, runs

from paredown.core.errors import UserError
from paredown.run import walk
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import load
from paredown.sweep.terminal import summary

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
    with pytest.raises(UserError, match=r"controls=\['rando'\] \(true or false, or random, or uniform, or dense\)"):
        load([*words, "controls=[rando]"])


def test_controls_wait_for_their_point(written) -> None:
    planned = plan(load([*written(POINTS), "controls=[random, dense]", "recipe.epochs=1", "tracking=off"]))
    assert summary(planned).endswith("when they are done, the controls of each compressed network: random, dense")
    progress = Progress(planned)
    progress.add_controls()
    assert len(progress.planned) == 2
    for point in planned.experiments:
        walk.carry_out(point.experiment)
    progress = Progress(planned)
    progress.add_controls()
    progress.add_controls()  # nothing new
    assert [each.label for each in progress.waiting] == [
        "method=ssc speed_up=2 control=random",
        "method=ssc speed_up=2 control=dense",
    ]
    assert progress.total == 4 and list(progress.points) == [point.experiment.key for point in planned.experiments]
    front = progress.front
    control = progress.waiting[0]
    progress.finish(progress.submit(control), {"cost/macs": 1.0, "final/top1": 100.0}, [])
    assert progress.front == front and progress.best < 100


def test_a_point_may_have_controls_of_its_own(written) -> None:
    text = 'points: [[method=dense], [method=ssc, speed_up=2, "controls=[dense,random]"], [method=ssc, speed_up=3]]'
    planned = plan(load([*written(text), "recipe.epochs=1", "tracking=off"]))
    assert summary(planned).endswith("; when they are done, 2 controls of single points")
    for point in planned.experiments:
        walk.carry_out(point.experiment)
    progress = Progress(planned)
    progress.add_controls()
    labels = [each.label for each in progress.waiting]
    assert labels == [f"method=ssc speed_up=2 control={kind}" for kind in ("random", "dense")]


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
