"""A sweep in MLflow: nothing stops or is lost in an outage, and children have their parent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from driving import EPOCHS, LONG, Driver, children, epochs_recorded, runs

from mlflow_server import Server
from paredown.store.lease import Leases
from paredown.store.objects import open_objects
from paredown.sweep.mlflow_sync import MlflowSync
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import Resources, load
from paredown.sweep.worker import perform, trial_spec
from paredown.tracking.journal import Journal
from paredown.tracking.tracker import Tracker

ASHA = "seeds: [0, 1]\nstop: {rule: asha, grace: 2}\n"


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


@pytest.mark.slow
def test_a_sweep_is_a_parent_with_its_experiments_as_children(written, tmp_path) -> None:
    folder = tmp_path / "out" / "sweeps" / "tiny"
    for _ in range(2):  # the second time nothing is left to do, and nothing is recorded twice
        progress = Progress(plan(load(written("seeds: [0, 1]\n"))))
        sync = MlflowSync(progress, folder)
        for planned in progress.waiting:
            run = progress.submit(planned)
            perform(trial_spec(planned, Resources(), "me"), lambda report: None)
            progress.finish(run, {"final/top1": 50.0}, [])
        sync.close("FINISHED")
    database = tmp_path / "out" / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": 2, "sweep FINISHED": 1} and children(database) == 2
    assert epochs_recorded(database) == [2, 2]
    assert (folder / "results.csv").read_text().count("\n") == 3 and "seed=1" in (folder / "sweep.json").read_text()


def test_what_was_stopped_early_is_recorded_as_killed(written, tmp_path) -> None:
    progress = Progress(plan(load(written("seeds: [0]\n"))))
    sync = MlflowSync(progress, tmp_path / "out" / "sweeps" / "tiny")
    (planned,) = progress.waiting
    progress.submit(planned)
    Tracker(planned.experiment.folder, None).start("tiny", {}, {})  # as its worker did, before the rule ended it
    progress.stop(planned)
    sync.close("FINISHED")
    assert runs(tmp_path / "out" / "mlflow.db") == {"experiment KILLED": 1, "sweep FINISHED": 1}


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr("paredown.sweep.mlflow_sync.POLL_SECONDS", 0.05)
    monkeypatch.setattr("paredown.sweep.mlflow_sync.REPORT_SECONDS", 0.0)


def until(there: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def begun(progress: Progress) -> list[Journal]:
    """Start all waiting experiments, as workers do; return their journals."""
    for planned in progress.waiting:
        progress.submit(planned).placed = True
        Tracker(planned.experiment.folder, None).start(planned.label, {}, {})
    return [Journal(planned.experiment.folder) for planned in progress.planned.values()]


def unreadable(journal: Journal, monkeypatch) -> None:
    lines = Journal._lines

    def refusing(self: Journal, offset: int) -> object:
        if self.path == journal.path:
            raise OSError("Input/output error")
        return lines(self, offset)

    monkeypatch.setattr(Journal, "_lines", refusing)


def torn(journal: Journal, monkeypatch) -> None:
    journal.path.write_text('{"kind": "sta' + journal.path.read_text())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(torn, "cannot be read"), (unreadable, "Input/output error")],
    ids=["torn", "unreadable"],
)
def test_one_broken_journal_costs_its_own_experiment_alone(
    written, tmp_path, hasty, monkeypatch, caplog, damage, reason
) -> None:
    progress = Progress(plan(load(written("seeds: [0, 1]\n"))))
    journals = begun(progress)
    damage(journals[0], monkeypatch)
    with caplog.at_level(logging.WARNING, "paredown"):
        sync = MlflowSync(progress, tmp_path / "out" / "sweeps" / "tiny")
        until(lambda: len(sync._children or ()) == 1)  # the thread lives, and has sent the other one
        sync.close("KILLED")
    assert not sync._thread.is_alive() and caplog.text.count("are not complete") == 1 and reason in caplog.text
    assert runs(tmp_path / "out" / "mlflow.db") == {"experiment KILLED": 1, "sweep KILLED": 1}


def test_an_interruption_is_not_taken_for_a_broken_journal(written, tmp_path, monkeypatch) -> None:
    progress = Progress(plan(load([*written("seeds: [0]\n"), "tracking.uri=off"])))
    begun(progress)
    sync = MlflowSync(progress, tmp_path / "out" / "sweeps" / "tiny")
    monkeypatch.setattr(Tracker, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sync.close("FINISHED")


def test_a_report_that_finds_no_room_costs_the_report_alone(written, tmp_path, hasty, monkeypatch) -> None:
    tried: list[object] = []

    def refresh(request: object) -> None:
        tried.append(request)
        raise OSError("No space left on device")

    monkeypatch.setattr("paredown.report.publish.refresh", refresh)
    progress = Progress(plan(load(written("seeds: [0, 1]\n"))))
    sync = MlflowSync(progress, tmp_path / "out" / "sweeps" / "tiny")
    begun(progress)
    for run in list(progress.running.values()):  # the second one is there after the first one's report
        count = len(tried)
        progress.finish(run, {"final/top1": 50.0}, [])
        until(lambda count=count: len(tried) > count)
    sync.close("FINISHED")
    assert runs(tmp_path / "out" / "mlflow.db")["sweep FINISHED"] == 1


@pytest.mark.parametrize("where", [[], ["store=file://{}/bucket"]], ids=["folder", "bucket"])
def test_what_a_rule_ended_stays_so_though_the_driver_is_killed_and_by_that_rule_alone(
    written, tmp_path, hasty, monkeypatch, where
) -> None:
    monkeypatch.setattr("paredown.store.objects.LISTING_SECONDS", 0.0)
    words = [*written(ASHA), "tracking.uri=off", *(word.format(tmp_path) for word in where)]
    progress = Progress(plan(load(words)))
    sync = MlflowSync(progress, progress.plan.folder)
    begun(progress)
    key = next(iter(progress.planned))
    progress.stop(progress.planned[key])
    listing = tmp_path / ("bucket" if where else "out") / "sweeps" / "tiny" / "sweep.json"
    until(listing.is_file)  # and here the driver may be killed

    def stopped(*changed: str) -> set[str]:  # with a bucket on another machine
        machine = [f"output={tmp_path / 'elsewhere'}"] if where else []
        return Progress(plan(load([*words, *machine, *changed]))).stopped

    assert stopped() == {key}
    for changed in ("stop.rule=median", "stop.grace=3", "stop.metric=val/top5", "stop.rule=none"):
        assert stopped(changed) == set()
    sync.close("KILLED")
    assert stopped() == {key} and stopped("stop.rule=median") == set()


def test_what_another_sweep_has_in_hand_is_not_waited_for(written, tmp_path, caplog) -> None:
    url = f"file://{tmp_path}/bucket"
    progress = Progress(plan(load([*written("seeds: [0]\n"), "tracking.uri=off", f"store={url}"])))
    (planned,) = progress.waiting
    Tracker(planned.experiment.folder, None).start("tiny", {}, {})
    sync = MlflowSync(progress, tmp_path / "out" / "sweeps" / "tiny")
    began = time.monotonic()
    with Leases(open_objects.__wrapped__(url)).lease(f"experiments-{planned.experiment.folder.name}"):
        sync.close("KILLED")
    assert time.monotonic() - began < 20 and "still running elsewhere" in caplog.text
    assert [record["kind"] for record in Journal(planned.experiment.folder).read()[0]] == ["start"]
