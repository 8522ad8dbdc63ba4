"""A trial gives the network of a single run, whatever ran in its process before, and on two ranks too."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from driving import alive, descendants, rank_processes

from paredown.core import blueprint
from paredown.run import walk
from paredown.sweep import multi_process
from paredown.sweep.in_process import WorkerDied
from paredown.sweep.planning import plan
from paredown.sweep.spec import Resources, load
from paredown.sweep.worker import perform, trial_spec

GRID = "grid: {method: [ssc], sparsity: [0.8]}\n"


def one(written, *more):
    return plan(load([*written(GRID), "tracking=off", *more])).experiments[0]


def weights(planned):
    key = planned.experiment.steps[-1].key
    return blueprint.load(planned.experiment.store.folder(key)).state_dict()


def test_a_trial_gives_what_the_command_gives_whatever_its_process_did_before(written, tmp_path) -> None:
    alone = walk.run([*one(written).overrides, f"output={tmp_path / 'alone'}", "trainer.accelerator=cpu"])
    planned = one(written)
    given = trial_spec(planned, Resources(), "me")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    reports = []
    perform(given, reports.append)
    assert torch.is_grad_enabled() and not torch.are_deterministic_algorithms_enabled()
    assert [report["epochs_done"] for report in reports[:-1]] == [1, 2]
    expected = blueprint.load(alone.state).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(planned).items())
    timed = {name for name in alone.metrics if name.startswith("latency/") or name == "price/seconds"}
    found = json.loads(reports[-1]["result"])
    assert {name: found[name] for name in set(found) - timed} == {
        name: alone.metrics[name] for name in set(alone.metrics) - timed
    }


def test_no_path_of_a_specification_is_relative(written) -> None:
    config = trial_spec(one(written), Resources(), "me")["config"]
    for path in (config["output"], config["dataset"]["root"], config["dataset"]["cache"]):
        assert path.startswith("/")


def test_what_raises_is_reported_and_not_raised(written) -> None:
    given = trial_spec(one(written), Resources(), "me")
    reports = []
    perform(given | {"key": "another"}, reports.append)
    assert reports[-1]["failed"].startswith("UserError: this node makes another experiment")
    given["config"]["recipe"]["learning_rate"] = -1
    perform(given, reports.append)
    assert "learning_rate" in reports[-1]["failed"]


@pytest.mark.slow
def test_two_workers_give_what_ddp_gives_alone(written, tmp_path) -> None:
    more = ["recipe.epochs=3", "trainer.accelerator=cpu"]
    alone = walk.run([*one(written).overrides, *more, f"output={tmp_path / 'alone'}", "trainer=ddp"])
    planned = one(written, *more, "resources.workers=2")
    reports = []
    perform(trial_spec(planned, Resources(workers=2), "me"), reports.append)
    assert [report.get("epochs_done") for report in reports] == [1, 2, 3, None], reports[-1]
    assert json.loads(reports[-1]["result"])["final/top1"] == alone.metrics["final/top1"]
    expected = blueprint.load(alone.state).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(planned).items())


@pytest.mark.slow
def test_ranks_die_with_the_process_that_started_them(written) -> None:
    given = trial_spec(one(written, "recipe.epochs=2000", "resources.workers=2"), Resources(workers=2), "me")
    code = "import json, sys; from paredown.sweep import multi_process as ranks"
    code += "; ranks.run(json.loads(sys.argv[1]), lambda row: print(row))"
    process = subprocess.Popen([sys.executable, "-uc", code, json.dumps(given)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline()  # an epoch is over: both ranks are there
    family = descendants(process.pid)
    assert len(family) >= 3
    process.kill()
    until = time.monotonic() + 20
    while [pid for pid in family if alive(pid)] and time.monotonic() < until:
        time.sleep(0.2)
    assert not [pid for pid in family if alive(pid)]


FAILURES = """
W1121 Sending process 11 closing signal SIGTERM
W1121 Unable to shutdown process 11 via Signals.SIGTERM, forcefully exiting via Signals.SIGKILL
paredown.sweep.multi_process FAILED
Failures:
[1]:
  time      : 2026-11-21_23:00:00
  rank      : 1 (local_rank: 1)
  exitcode  : {one} (pid: 11)
  error_file: <N/A>
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_23:00:00
  rank      : 0 (local_rank: 0)
  exitcode  : {zero} (pid: 10)
"""
RAISED = {"rank": 0, "line": "ValueError: too small", "connection": False, "time": 1.0}
RESET = {"rank": 0, "line": "RuntimeError: gloo: Connection reset by peer", "connection": True, "time": 2.0}


@pytest.mark.parametrize(
    ("zero", "one", "errors", "code", "kind", "said"),
    [
        (-9, 1, [RESET | {"rank": 1}], 1, WorkerDied, "rank 0 ended by SIGKILL"),
        (1, -11, [RESET], 1, WorkerDied, "rank 1 ended by SIGSEGV"),  # not the signal that torchrun sent
        (1, -6, [RESET], 1, WorkerDied, "rank 1 ended by SIGABRT"),
        (1, -6, [RAISED], 1, RuntimeError, "ValueError: too small"),  # as NCCL's watchdog does when its peer has gone
        (1, -15, [RAISED], 1, RuntimeError, "ValueError: too small"),  # torchrun ended it
        (1, -9, [RAISED], 1, RuntimeError, "ValueError: too small"),
        (-11, 1, [RAISED, RESET | {"rank": 1}], 1, RuntimeError, "ValueError: too small"),  # crashed on its way out
        (1, 1, [RESET | {"time": 0.5}, RAISED | {"rank": 1}], 1, RuntimeError, "ValueError: too small"),
        (1, 1, [], 1, RuntimeError, "the processes ended with exit code 1"),
        (1, 1, [], -9, WorkerDied, "torchrun ended by SIGKILL"),
    ],
)
def test_a_death_is_told_from_what_a_rank_raised(tmp_path, zero, one, errors, code, kind, said) -> None:
    (tmp_path / "log").write_text(FAILURES.format(zero=zero, one=one))
    for error in errors:
        (tmp_path / f"error-{error['rank']}").write_text(json.dumps(error))
    with pytest.raises(RuntimeError) as raised:
        multi_process._raise_failure(tmp_path, code)
    assert type(raised.value) is kind and str(raised.value) == said


@pytest.mark.slow
def test_a_rank_that_is_told_to_end_and_one_that_raises_are_told_apart(written) -> None:
    given = trial_spec(one(written, "recipe.epochs=2000", "resources.workers=2"), Resources(workers=2), "me")
    told = []

    def stop(report) -> None:  # of rank 0, once: several epochs may be reported together
        if not told:
            told.append(rank_processes(os.getpid())[0])
            os.kill(told[0], signal.SIGTERM)

    with pytest.raises(WorkerDied, match=r"^rank 0 ended by SIGTERM$"):
        perform(given, stop)
    reports = []
    perform(given | {"key": "another"}, reports.append)
    assert [report["failed"].split(": this node")[0] for report in reports] == ["RuntimeError: UserError"]


def test_the_error_line_of_a_log() -> None:
    assert (
        multi_process._error_line("Traceback\nValueError: too small\nChildFailedError: \n", 1)
        == "ValueError: too small"
    )
