"""The summary table of a finished run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from paredown.core.config import compose
from paredown.core.crash import OUTPUT
from paredown.core.formatting import fixed, grouped
from paredown.core.requests import as_called
from paredown.core.target_metrics import ASKED, REACHED, TARGETS, TOLERANCE, missed_target
from paredown.core.words import for_shell
from paredown.published.settings import with_row
from paredown.run.walk import Result

OF_METHOD = ("method", *TARGETS, "control", "deploy")
NEGLIGIBLE = 0.05  # difference of a speed-up from 1
Verdict = Literal["faster", "slower", "as fast", "undecided"]
Cells = tuple[str, str, str, str]  # of one row
HEADS: dict[str, Literal["left", "right"]] = {"": "left", "dense": "right", "deployed": "right", "ratio": "right"}


def show(result: Result, title: str, overrides: Sequence[str] | None = None) -> None:
    """Print accuracy, cost and latency of `result` beside the dense reference, where its files are, and what to try
    after the run of `overrides`."""
    table, console = Table(), Console()
    for name, justify in HEADS.items():
        table.add_column(name, justify=justify)
    for row in _rows(result.metrics):
        table.add_row(*row)
    console.print(title, style="bold", soft_wrap=True, highlight=False)
    console.print(table)
    if sentence := gained_and_lost(result.metrics):
        console.print(sentence, style="bold", soft_wrap=True, highlight=False)
    after = [] if overrides is None else ["next:", *map(as_called, next_commands(result, overrides))]
    for line in [*_lines(result), *after]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _rows(m: Mapping[str, float]) -> list[Cells]:
    return [*_accuracies(m), *_costs(m), *_target(m), _latency(m)]


def _accuracies(m: Mapping[str, float]) -> list[Cells]:
    gain = f"{m['gain/top1']:+.2f} points" if "gain/top1" in m else ""
    rows = [("top-1, last epoch (%)", fixed(m.get("dense/top1")), fixed(m["final/top1"]), gain)]
    names = {"best": "best test epoch", "selected": "best val epoch", "base": "before compression"}
    rows += [
        (f"top-1, {epoch} (%)", "", fixed(m[f"{name}/top1"]), "")
        for name, epoch in names.items()
        if f"{name}/top1" in m
    ]
    return rows


def _costs(m: Mapping[str, float]) -> list[Cells]:
    rows = [
        ("MACs", grouped(m["cost/dense_macs"]), grouped(m["cost/macs"]), _fewer(m["cost/speed_up"])),
        ("parameters", grouped(m["cost/dense_params"]), grouped(m["cost/params"]), _fewer(m["cost/compression"])),
        *_bytes(m),
        ("sparsity", "", f"{m['cost/sparsity']:.2%}", ""),
    ]
    if "rank/sum" in m:
        fewer = _fewer(m["rank/full"] / m["rank/sum"])
        rows.insert(0, ("singular values, all layers", grouped(m["rank/full"]), grouped(m["rank/sum"]), fewer))
    return rows


def _bytes(m: Mapping[str, float]) -> list[Cells]:
    if "cost/dense_bytes" not in m:  # recorded by an older version
        return []
    dense, ours = m["cost/dense_bytes"], m["cost/bytes"]
    return [("bytes, zeros left out", grouped(dense), grouped(ours), _fewer(dense / ours))]


def gained_and_lost(m: Mapping[str, float]) -> str:
    """Return in sentences what the deployed network has gained on the dense one, what it has lost, and its speed where
    that is neither; "" where no dense network was trained."""
    if "gain/top1" not in m:
        return ""
    ratios = {"MACs": m["cost/speed_up"]}
    ratios |= {"bytes": m["cost/dense_bytes"] / m["cost/bytes"]} if "cost/dense_bytes" in m else {}
    gained = [f"{ratio:.3g}x fewer {what}" for what, ratio in ratios.items() if ratio > 1]
    lost = [f"{1 / ratio:.3g}x more {what}" for what, ratio in ratios.items() if ratio < 1]
    time, is_time = _measured(*speed_up(m)), verdict(*speed_up(m))
    if is_time in ("faster", "slower"):
        (gained if is_time == "faster" else lost).append(time)
    neither = f" Speed: {time}." if is_time in ("as fast", "undecided") else ""
    if change := round(m["gain/top1"], 2):
        points = f"{abs(change):.2f} points of top-1 ({m['dense/top1']:.2f} -> {m['final/top1']:.2f} %)"
        (gained if change > 0 else lost).append(points)
    else:
        neither += f" Top-1: the same ({m['final/top1']:.2f} %)."
    return f"Gained: {', '.join(gained) or 'nothing'}. Lost: {', '.join(lost) or 'nothing'}.{neither}"


def next_commands(result: Result, overrides: Sequence[str]) -> list[str]:
    """Return three commands to try after the run of `overrides`, each with what it gives."""
    chosen = compose(with_row(list(overrides)))["names"]  # whatever named it: a default, `experiment=`, `reproduce=`
    overrides = [for_shell(word) for word in overrides]
    typed = dict(word.split("=", 1) for word in overrides if "=" in word)
    names = [f"{key}={chosen[key]}" for key in ("dataset", "model")]
    kept = [f"{key}={typed[key]}" for key in ("output", "tracking.uri") if key in typed]
    report = ["src/report.py", *names, *kept]
    dense = ["src/run.py", *(word for word in overrides if re.split("[.=]", word)[0] not in OF_METHOD)]
    dense += ["method=dense"] if "experiment" in typed else []
    export = ["src/export.py", f"run={result.run_id or result.folder}", *kept]
    other = ["method=l1_filters", "speed_up=4"] if chosen["method"] == "ssc" else ["method=ssc", "sparsity=0.9"]
    if chosen["method"] == "dense":
        commands = {"the front of all that is recorded, as one page": [report]}
    elif "gain/top1" in result.metrics:
        commands = {"the dense network, trained already, as a point too; then the front as one page": [dense, report]}
    else:
        commands = {"the dense network to compare with": [dense]}
    commands["files that ship, each certified"] = [export]
    commands["another method; python src/run.py --help lists them"] = [["src/run.py", *names, *other, *kept]]
    return [f"  {' && '.join(map(_called, words))}   # {what}" for what, words in commands.items()]


def _called(words: Sequence[str]) -> str:
    return f"{_python()} {shlex.join(words)}"


def _python() -> str:
    """Return how to call this Python from here: by its path where its environment is not activated."""
    place = Path(sys.executable)
    if "VIRTUAL_ENV" not in os.environ and place.is_relative_to(Path.cwd()):
        return str(place.relative_to(Path.cwd()))
    return "python"


def _target(m: Mapping[str, float]) -> list[Cells]:
    if not {ASKED, REACHED} <= m.keys():  # no target, or recorded by an older version
        return []
    return [("target, asked -> reached", "", f"{m[ASKED]:.4g} -> {m[REACHED]:.4g}", "")]


def _latency(m: Mapping[str, float]) -> Cells:
    ratio = _measured(*speed_up(m))
    return "latency (ms a batch)", fixed(m["latency/dense_ms"], 3), fixed(m["latency/ms"], 3), ratio


def _lines(result: Result) -> list[str]:
    m = result.metrics
    lines = []
    if missed_target(m):
        lines.append(
            f"WARNING: the target was missed: {m[REACHED]:.6g} instead of {m[ASKED]:.6g}, tolerance {m[TOLERANCE]:.2g}"
        )
    rules = {name: value for name, value in m.items() if name.startswith("cost/speed_up_")}
    others = ", ".join(f"{name.removeprefix('cost/speed_up_')} {value:.2f}x" for name, value in rules.items())
    lines.append(f"MACs as other papers count them: {others} fewer (docs/cost.md)")
    lines += ["finished before: this is the stored result"] if result.reused else []
    return [
        *lines,
        f"network  {result.state}",
        f"records  {result.folder}",
        f"MLflow   {dashboard(result.folder.parents[1])}",
    ]


def dashboard(output: Path) -> str:
    """Return the command that opens MLflow on the records in the folder `output`."""
    is_default = output.resolve() == Path(OUTPUT).resolve()
    return "make dashboard" if is_default else f"make dashboard OUTPUT={shlex.quote(str(output))}"


def _fewer(ratio: float) -> str:
    return f"{ratio:.2f}x fewer"


def speed_up(m: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the measured speed-up and the ends of its interval from the metrics of a run."""
    return m["latency/speed_up"], m["latency/speed_up_low"], m["latency/speed_up_high"]


def verdict(ratio: float, low: float, high: float) -> Verdict:
    """Return what a measured speed-up and its interval say of the deployed network beside the dense one; undecided
    where the machine was too busy, or the measurement too short."""
    if low <= 1 < 1 + NEGLIGIBLE < high:
        return "undecided"
    if low <= 1 <= high or abs(ratio - 1) < NEGLIGIBLE:
        return "as fast"
    return "faster" if ratio > 1 else "slower"


def _measured(ratio: float, low: float, high: float) -> str:
    said = {
        "faster": f"{ratio:.2f}x faster, measured",
        "slower": f"{1 / ratio:.2f}x SLOWER, measured",
        "as fast": "no faster, measured",
        "undecided": f"undecided, {low:.2f}x to {high:.2f}x",
    }
    return said[verdict(ratio, low, high)]
