"""Several processes on one store, killed at random moments: every result is the same, there once, with nothing left."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.core.config import compose
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.run.walk import RESULT, carry_out, finished, stored_result
from paredown.tracking.journal import Journal

ROUNDS, SEED = 20, 20261128
LIMIT_SECONDS = 90.0  # for a process to end by itself
SERVER = get_context("forkserver")  # forks of this process would fail once it has used autograd
MEASURED = ("latency/", "seconds", "train_seconds")  # differ from run to run


@dataclass(frozen=True)
class Chain(Method):
    """A short fit, two edits that every experiment shares, and one by `last`."""

    last: float = 0.0

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        shared = [Fit("train", recipe), *(Edit(f"edit{number}", shake, {"scale": 0.01 * number}) for number in (1, 2))]
        return [*shared, Edit("last", shake, {"scale": self.last})]


@identity("test/shake")
def shake(network: Network, context: Context, scale: float) -> dict[str, Any]:
    for parameter in network.module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    time.sleep(0.05)
    return {"scale": scale}


@pytest.mark.slow
def test_twenty_rounds_of_kills_end_as_if_there_were_none(tmp_path: Path) -> None:
    SERVER.set_forkserver_preload([__name__, "pytorch_lightning", "paredown.results.measure", "paredown.results.page"])
    began = time.monotonic()
    expected = outcome(run_all(tmp_path / "alone", 2, random.Random(0), kills=0))
    took = time.monotonic() - began
    chance = random.Random(SEED)
    kills = 0
    for number in range(ROUNDS):
        folder = tmp_path / f"round{number}"
        experiments = run_all(folder, chance.randint(2, 4), chance, kills=chance.randint(1, 4), within=took)
        kills += Kills.done
        assert outcome(experiments) == expected, f"round {number} of seed {SEED}"
        assert [*leftovers(folder)] == [], f"round {number} of seed {SEED}"
        assert not any(experiment.store.is_locked(step.key) for experiment in experiments for step in experiment.steps)
    assert kills >= ROUNDS // 2  # or the moments are after the end, and nothing was tested


class Kills:
    done = 0


def experiment(folder: Path, last: float) -> Experiment:
    words = ["dataset=digits", "dataset.fraction=0.05", "model=resnet20", "model.depth=8", "recipe.epochs=2"]
    words += ["recipe.precision=32", "trainer.accelerator=cpu", "trainer.checkpoint_seconds=0", "latency.seconds=0"]
    words += [f"dataset.cache={folder.parent}/cache", f"output={folder}", "tracking=off", "trainer.progress=false"]
    made = prepare(compose(words))
    return replace(made, method=Chain(last=last))


def run_all(folder: Path, processes: int, chance: random.Random, kills: int, within: float = 0.0) -> list[Experiment]:
    """Run two experiments that share stages in `processes` processes until each has ended well, killing `kills` times
    one of them at a moment within so many seconds, and starting it again."""
    experiments = [experiment(folder, 0.03), experiment(folder, 0.04)]
    running = [start(experiments[number % 2]) for number in range(processes)]
    Kills.done = 0
    for _ in range(kills):
        time.sleep(chance.uniform(0, within / kills))
        number = chance.randrange(processes)
        if running[number].is_alive():
            running[number].kill()
            running[number].join()
            Kills.done += 1
        running[number] = start(experiments[number % 2])
    for process in running:
        end(process)
    return experiments


def start(chosen: Experiment) -> ForkServerProcess:
    process = SERVER.Process(target=run, args=(chosen,))
    process.start()
    return process


def run(chosen: Experiment) -> None:
    """Run `chosen` as src/run.py does."""
    torch.set_num_threads(1)
    stored_result(chosen) if finished(chosen) else carry_out(chosen)


def end(process: ForkServerProcess) -> None:
    process.join(LIMIT_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail("a process hangs")
    assert process.exitcode == 0


def outcome(experiments: list[Experiment]) -> dict[str, Any]:
    """Return all that must be equal however often processes were killed: the bytes of every state, every figure that
    is not timed, and each record once."""
    found: dict[str, Any] = {}
    for one in experiments:
        for step in one.steps:
            found[step.key] = {
                p.name: p.read_bytes() for p in one.store.folder(step.key).iterdir() if p.suffix != ".json"
            }
        metrics = json.loads((one.folder / RESULT).read_text())
        found[one.key] = {name: value for name, value in metrics.items() if not any(word in name for word in MEASURED)}
        records, _ = Journal(one.folder).read()
        places = [
            (name, record["step"]) for record in records if record["kind"] == "metrics" for name in record["values"]
        ]
        assert len(places) == len(set(places)), "a figure is recorded twice"
        assert records[-1]["kind"] == "finish" and records[-1]["status"] == "FINISHED"
    states = {path.parent.name for path in experiments[0].store.root.glob("*/*/stage.json")}
    assert states == {step.key for one in experiments for step in one.steps}
    return found


def leftovers(folder: Path) -> Iterator[str]:
    """Yield the temporary files below `folder`: hidden ones but for locks, unfinished stages and part files."""
    for path in folder.rglob("*"):
        hidden = path.name.startswith(".") and path.name != ".lock"
        if hidden or path.name.endswith(".unfinished") or path.name.startswith("tmp") or path.suffix[1:].isdecimal():
            yield str(path.relative_to(folder))
