"""src/sweep.py from the outside: what it says, and its exit code, when it is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = Path(__file__).parents[2] / "src" / "sweep.py"
TINY = """
overrides: [dataset=digits, model=resnet20, model.depth=8, dataset.fraction=0.1, recipe.epochs=1, latency.seconds=0.02]
metrics: {accuracy: mine/top1}
"""


@pytest.mark.slow
def test_a_sweep_whose_metric_no_experiment_recorded_ends_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = [f"sweep={tmp_path / 'tiny.yaml'}", f"output={tmp_path / 'out'}", "tracking=off"]
    ended = subprocess.run([sys.executable, str(SWEEP), *words], capture_output=True, text=True, check=False)
    said = "paredown: no experiment of tiny recorded metrics.accuracy=mine/top1: give a metric that runs have"
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1] == said
    assert "1 of 1 experiments done" in ended.stdout
