"""benchmarks/gpu.py on a CPU: what is finished is kept, what is not goes on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from paredown.core.errors import UserError

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
TINY = "dataset=digits model=resnet20 model.depth=8 debug=fast latency.seconds=0.02"


def start(folder: Path, minutes: float = 5) -> subprocess.CompletedProcess[str]:
    words = ["experiments", "list", "--at-once", "2", f"--minutes={minutes}", "--folder", "found", "output=made"]
    command = [sys.executable, str(GPU), *words]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=400, check=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", GPU)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def test_an_experiment_keeps_its_files_when_lines_come_and_go(gpu: ModuleType, tmp_path: Path) -> None:
    def names(text: str, *typed: str) -> list[str]:
        (tmp_path / "list").write_text(text)
        return [gpu.name_of(words) for words in gpu.read_list(tmp_path / "list", typed)]

    dense, ssc = names("method=dense seed=0\n\nmethod=ssc  sparsity=0.8 # a comment\n")
    assert names("# more\nmethod=snip\nmethod=ssc sparsity=0.8\n'method=dense' seed=0")[1:] == [ssc, dense]
    assert names("method=ssc sparsity=0.9") != [ssc] != names("method=ssc sparsity=0.8", "seed=1")


def test_a_line_of_a_list_grants_nothing_and_a_word_that_is_typed_does(gpu: ModuleType, tmp_path: Path) -> None:
    granting = ["trust=mine", "+trust=[mine]", "model.source=net.py:Net", "++model.source=net.py:Net"]
    for word in [*granting, "hydra.searchpath=[conf]", "--config-dir=conf", "'method=ssc", "dense"]:
        (tmp_path / "list").write_text(f"method=dense\nmodel=custom {word}")
        with pytest.raises(UserError, match=r"list:2: "):
            gpu.read_list(tmp_path / "list", [])
    (tmp_path / "list").write_text("model=custom")
    assert gpu.read_list(tmp_path / "list", granting) == [["model=custom", *granting]]
    (tmp_path / "list").write_text("model=custom model.source=net.py:Net")
    done = start(tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("list:1: model.source=net.py:Net: a file cannot grant that")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "found").exists()
    (tmp_path / "list").unlink()
    assert start(tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.long
def test_a_list_of_experiments_runs_until_its_deadline_and_goes_on(tmp_path) -> None:
    methods = ("method=dense  # a comment", "method=ssc sparsity=0.8", "method=ssc sparsity=2")
    lines = ["", *(f"{TINY} {method}" for method in methods)]
    (tmp_path / "list").write_text("\n".join(lines))
    assert "3 experiments are not done" in start(tmp_path, minutes=0.01).stdout
    whole = start(tmp_path)
    assert whole.returncode == 1 and whole.stdout.count("failed with exit code 2") == 1
    assert "0 experiments are not done" in whole.stdout
    found = [json.loads(path.read_text()) for path in (tmp_path / "found").glob("*.json")]
    (sparse,) = [one for one in found if "method=ssc" in one["words"]]
    assert len(found) == 2 and sparse["metrics"]["cost/sparsity"] > 0.7
    again = start(tmp_path)
    assert again.returncode == 1 and "done in" not in again.stdout  # only what failed is tried again
    assert any("sparsity=2" in log.read_text() for log in (tmp_path / "found").glob("*.log"))


@pytest.mark.slow
@pytest.mark.long
def test_steps_are_timed_in_every_form_of_a_cpu() -> None:
    words = ["throughput", "--device", "cpu", "--only", "resnet20", "--batch", "2", "--rounds", "1", "--seconds", "0"]
    command = [sys.executable, str(GPU), *words, "--minutes", "0.02"]
    run = subprocess.run(command, text=True, capture_output=True, timeout=400, check=True)
    assert "resnet20 fp32 channels_last" in run.stdout
