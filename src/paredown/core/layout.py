"""The files of an experiment's folder and of its run's artifacts."""

from __future__ import annotations

from pathlib import Path

from paredown.core.errors import UserError
from paredown.core.files import read_json

RESULT = "result.json"  # the final metrics, in the experiment's folder
CONFIG, PLAN, STATE = "config.json", "plan.json", "state"  # artifacts: what was run, the network
LAYERS, EXECUTION, FIGURES = "layers.json", "execution.json", "figures.html"
ENVIRONMENT, BENCH = "environment.txt", "bench.json"
MEASURED = ("final/top1", "cost/macs", "cost/speed_up")  # among the metrics of every result
MEASURE_AGAIN = "delete it: the same command measures again"


def read_result(folder: Path) -> dict[str, float]:
    """Return the final metrics of the finished experiment in `folder`. Raise UserError for a damaged file."""
    found: dict[str, float] = read_json(folder / RESULT, dict[str, int | float], MEASURE_AGAIN)
    if missing := [name for name in MEASURED if name not in found]:
        raise UserError(f"{folder / RESULT} holds no {missing[0]} ({MEASURE_AGAIN})")
    return found
