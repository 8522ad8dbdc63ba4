"""MLflow away while a sweep runs: nothing stops, nothing is lost, children find their parent."""

from __future__ import annotations

import pytest
from driving import EPOCHS, LONG, Driver, children, epochs_recorded, runs

from mlflow_server import Server
from paredown.sweep.board import Board
from paredown.sweep.file import Resources, load
from paredown.sweep.planning import plan
from paredown.sweep.records import Records
from paredown.sweep.work import perform, specification
from paredown.tracking.tracker import Tracker


@pytest.mark.slow
def test_mlflow_is_away_while_a_sweep_runs(written, tmp_path) -> None:
    server = Server(tmp_path, f"sqlite:///{tmp_path}/db")
    server.start()
    arguments = [*written("seeds: [0, 1, 2]\n"), *LONG, f"tracking.uri={server.uri}"]
    sweep = Driver(arguments)
    sweep.until(sweep.checkpoints)
    server.kill()
    sweep.until(lambda: len(sweep.results()) == 2)
    server.start()
    try:
        sweep.wait()
        Driver(arguments).wait()  # sends what waits, where the sweep was over before the server was back
        assert runs(tmp_path / "db") == {"experiment FINISHED": 3, "sweep FINISHED": 1}
        assert children(tmp_path / "db") == 3 and epochs_recorded(tmp_path / "db") == [EPOCHS] * 3
    finally:
        server.kill()


def test_a_sweep_is_a_parent_with_its_experiments_as_children(written, tmp_path) -> None:
    folder = tmp_path / "out" / "sweeps" / "tiny"
    for _ in range(2):  # the second time nothing is left to do, and nothing is recorded twice
        board = Board(plan(load(written("seeds: [0, 1]\n"))))
        records = Records(board, folder)
        for planned in board.waiting:
            run = board.start(planned)
            perform(specification(planned, Resources(), "me"), lambda report: None)
            board.finish(run, {"final/top1": 50.0}, [])
        records.close("FINISHED")
    database = tmp_path / "out" / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": 2, "sweep FINISHED": 1} and children(database) == 2
    assert epochs_recorded(database) == [2, 2]
    assert (folder / "results.csv").read_text().count("\n") == 3 and "seed=1" in (folder / "sweep.json").read_text()


def test_what_was_stopped_early_is_recorded_as_killed(written, tmp_path) -> None:
    board = Board(plan(load(written("seeds: [0]\n"))))
    records = Records(board, tmp_path / "out" / "sweeps" / "tiny")
    (planned,) = board.waiting
    board.start(planned)
    Tracker(planned.experiment.folder, None).start("tiny", {}, {})  # as its worker did, before the rule ended it
    board.stop(planned)
    records.close("FINISHED")
    assert runs(tmp_path / "out" / "mlflow.db") == {"experiment KILLED": 1, "sweep FINISHED": 1}
