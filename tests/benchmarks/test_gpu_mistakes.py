"""benchmarks/gpu.py: a mistake is one line and exit code 2 before anything runs, and an interruption leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = "dataset=digits model=resnet20 model.depth=8 latency.seconds=0.02"
MISTAKES = {
    ("throughput", "device=cpu"): "throughput takes no words of an experiment, got device=cpu",
    ("throughput", "--device", "nonsense"): "--device nonsense: write cpu, cuda or cuda:NUMBER",
    ("throughput", "--device", "meta"): "--device meta: write cpu",
    ("throughput", "--device", "cpu", "--rounds", "0"): "rounds=0 (at least 1)",
    ("throughput", "--device", "cpu", "--batch", "0"): "batch=0 (at least 1)",
    (
        "throughput",
        "--device",
        "cpu",
        "--json",
        "/nosuch/t.json",
    ): "--json /nosuch/t.json: no file can be written there",
    ("experiments", "list", "--at-once", "0"): "at_once=0 (at least 1)",
    ("experiments", "list", "--minutes", "nan"): "minutes=nan",
    ("experiments", "list", "--minutes", "-1"): "minutes=-1.0 (above 0)",
    ("experiments", "list", "--minutes", "x"): "argument --minutes: invalid float value: 'x'",
    ("experiments", "list", "--folder", "list/below"): "--folder list/below: Not a directory",
    ("experiments", "typo"): "typo: dataset=digits sparcity=0.9: unknown key 'sparcity': did you mean sparsity?",
}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(GPU), *words]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """The folder in which the lists are."""
    (tmp_path / "list").write_text(f"{TINY} method=dense recipe.epochs=400\n")
    (tmp_path / "typo").write_text(f"{TINY} method=dense\ndataset=digits sparcity=0.9\n")
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_before_anything_runs(lists: Path, mistake: tuple[str, ...]) -> None:
    running = start(lists, *mistake)
    out, err = running.communicate(timeout=100)
    assert running.returncode == 2 and out == "" and len(err.splitlines()) == 1
    assert MISTAKES[mistake] in err
    assert not [*lists.rglob("*.log")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_one_line(lists: Path) -> None:
    running = start(lists, "throughput", "--json", "found.json")
    assert running.communicate(timeout=100)[1].startswith("--device cuda: torch can use 0 GPUs")
    assert running.returncode == 2 and not (lists / "found.json").exists()


def test_an_interruption_is_one_line_and_ends_the_experiments(lists: Path) -> None:
    running = start(lists, "experiments", "list", "--folder", "found", f"output={lists / 'made'}")
    ends = time.monotonic() + 100
    while not [*lists.glob("found/*.log")] and time.monotonic() < ends:
        time.sleep(0.1)
    (child,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    time.sleep(1)  # until Python handles signals
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=100)
    assert running.returncode == 130 and err == "interrupted; the same command goes on\n"
    assert not Path(f"/proc/{child}").exists()


def test_a_failed_experiment_is_counted(lists: Path) -> None:
    (lists / "list").write_text(f"{TINY} method=ssc sparsity=2\n")
    running = start(lists, "experiments", "list", "--folder", "found", f"output={lists / 'made'}")
    out, _ = running.communicate(timeout=200)
    assert running.returncode == 1 and "1 experiments failed, 0 experiments are not done" in out
