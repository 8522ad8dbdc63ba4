"""The last net's line for faults in the middle of a run: what, where the traceback lies, and how to go on."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from paredown.cli import run as cli
from paredown.core import interrupt
from paredown.core.requests import FAILED
from paredown.data.datasets.digits import Digits
from paredown.data.loaders import TrainLoader
from paredown.experiment.experiment import Experiment
from paredown.methods.sparse.pruning import PruneAtStart
from paredown.results import measure
from paredown.run import terminal
from paredown.store.states import Store
from paredown.surgery import saliency
from paredown.tracking.tracker import Tracker
from paredown.training.checkpoint import SafeCheckpointIO
from paredown.training.module import FitModule

WORDS = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=2", "method=snip"]
WORDS += ["sparsity=0.5", "recipe.precision=32", "latency.seconds=0", "tracking=off", "progress=off"]
WORDS += ["trainer.accelerator=cpu", "trainer.checkpoint_seconds=0"]

# in the order of a run: whose function breaks, with what, and what the line says of it
FAULTS: dict[str, tuple[object, str, Exception, str]] = {
    "opening the images": (Digits, "open", IndexError("row 7"), "IndexError: row 7"),
    "making the plan": (PruneAtStart, "plan", KeyError("conv1"), "KeyError: 'conv1'"),
    "scoring": (saliency, "snip", RuntimeError("shape mismatch\nin conv1"), "RuntimeError: shape mismatch in conv1"),
    "keeping a state": (Store, "put", AttributeError("no attribute 'x'"), "AttributeError: no attribute 'x'"),
    "a batch": (TrainLoader, "__iter__", TypeError("not a tensor"), "TypeError: not a tensor"),
    "a step": (torch.optim.SGD, "step", RuntimeError("CUDA error"), "RuntimeError: CUDA error"),
    "an evaluation": (FitModule, "validation_step", AssertionError(), "AssertionError"),
    "a checkpoint": (SafeCheckpointIO, "save_checkpoint", ValueError("bad name"), "ValueError: bad name"),
    "figures of an epoch": (Tracker, "metrics", UnicodeError("\x1b[31mé"), "UnicodeError: "),
    "the proof": (measure, "prove_equal", LookupError("layer"), "LookupError: layer"),
    "timing": (
        measure,
        "measure_latency",
        ZeroDivisionError("division by zero"),
        "ZeroDivisionError: division by zero",
    ),
    "accuracy": (Experiment, "accuracy", MemoryError(), "MemoryError"),
    "the table": (terminal, "show", RecursionError("too deep"), "RecursionError: too deep"),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all faults, so that each run goes on from where the one before it broke."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, output: Path) -> Iterator[Callable[[], int | str | None]]:
    """The command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["run.py", *WORDS, f"output={output}"])
    monkeypatch.setattr(cli, "ASKED", [])
    monkeypatch.setattr(interrupt._State, "said", False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run() -> int | str | None:
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code
        return 0

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def broken(error: Exception) -> Callable[..., None]:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_in_the_middle_is_one_line(
    place: str,
    command: Callable[[], int | str | None],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, name, error, said = FAULTS[place]
    monkeypatch.setattr(owner, name, broken(error))
    assert command() == FAILED
    printed = capsys.readouterr().err
    last = printed.splitlines()[-1]
    assert "Traceback" not in printed and "\x1b" not in printed
    assert last.startswith(f"paredown: an unexpected error, {said}")
    assert last.endswith("; what was finished is kept, and the same command goes on from there")
    found = re.search(r"; its traceback is in (.*) \(please report it\)", last)
    assert found and Path(found[1]).parent == output
    kept = Path(found[1]).read_text()
    assert "in raise_it" in kept and " ".join(WORDS) in kept and type(error).__name__ in kept


def test_afterwards_the_same_command_goes_on(command: Callable[[], int | str | None], capsys) -> None:
    assert command() == 0
    assert "top-1, last epoch" in capsys.readouterr().out
