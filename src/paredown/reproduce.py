"""Did the paper's number come out? Runs a published row with several seeds and sets theirs beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from paredown.blueprint import write_text
from paredown.errors import UserError, nearest
from paredown.execute import Result
from paredown.frontier.seeds import Estimate, estimate
from paredown.published.settings import overrides, rows

# What a user may set without asking another question than the row's.
HARMLESS = (
    *("seed", "seeds", "output", "store", "trainer", "tracking", "latency", "deploy"),
    *("dataset.root", "dataset.cache", "reproduce"),
)
NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Comparison:
    """One printed number, ours over the seeds, the deviation of our mean from it, and what follows."""

    quantity: str
    theirs: float
    spread: float | None  # the printed standard deviation
    ours: Estimate
    verdict: str

    @property
    def deviation(self) -> float:
        """Our mean minus theirs."""
        return self.ours.mean - self.theirs


@dataclass(frozen=True)
class Reproduction:
    """A published row run here: what it was run with, what came out, and why it may not be comparable."""

    row: Mapping[str, Any]
    words: tuple[str, ...]
    seeds: int
    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...]

    def save(self, output: Path) -> Path:
        """File it as JSON below `output`; returns the file."""
        path = output / "reproductions" / f"{self.row['id'].replace('/', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"row": _plain(self.row), "overrides": self.words, "seeds": self.seeds, "reasons": self.reasons}
        found = [asdict(comparison) | {"deviation": comparison.deviation} for comparison in self.comparisons]
        write_text(path, json.dumps(_plain(data | {"comparisons": found}), indent=1))
        return path


def only_row(name: str) -> Mapping[str, Any]:
    """The published row `name`. UserError for a whole table, which is a sweep, and for what does not exist."""
    found = rows(name)
    if [row["id"] for row in found] != [name]:
        raise UserError(f"reproduce={name} is a table of {len(found)} rows: src/sweep.py runs it, or give {name}/1")
    return found[0]


def runnable(name: str, model: str | None) -> tuple[dict[str, list[str]], str | None]:
    """The overrides of every row of `name` that can be run, by the row's id; of `model` alone where it is given.
    UserError where none can, saying what the first lacks."""
    found, first = {}, None
    every = rows(name)
    models = {row["model"] for row in every}
    if model and model not in models:
        raise UserError(f"reproduce={name} has no row of model {model!r}: {nearest(model, models)}")
    for row in every:
        if model in (None, row["model"]):
            try:
                found[row["id"]] = overrides(row)
            except UserError as error:
                first = first or error
    if not found and first:
        raise first
    return found, model


def commands(row: Mapping[str, Any], typed: Sequence[str], seeds: int) -> list[list[str]]:
    """The overrides of each seed's run: the row's settings, then what the user `typed`, which wins."""
    own = [word for word in typed if word.partition("=")[0] not in ("seed", "seeds", "reproduce")]
    taken = {word.partition("=")[0].lstrip("+~") for word in own}
    settings = [word for word in overrides(row) if word.partition("=")[0] not in taken]
    return [[*settings, *own, f"reproduce={row['id']}", f"seed={seed}"] for seed in range(seeds)]


def reproduce(name: str, typed: Sequence[str], seeds: int, run: Callable[[list[str]], Result]) -> Reproduction:
    """Run the published row `name` with seeds 0 to `seeds` - 1 and compare. Raises UserError where it cannot be run."""
    if seeds < 1:
        raise UserError(f"seeds={seeds} is not at least 1")
    row = only_row(name)
    every = commands(row, typed, seeds)
    metrics = [run(words).metrics for words in every]
    return compare(row, tuple(every[0][:-1]), metrics, reasons(row, typed))


def compare(
    row: Mapping[str, Any], words: tuple[str, ...], metrics: Sequence[Mapping[str, float]], why_not: Sequence[str]
) -> Reproduction:
    """Every number that `row` prints beside that of the runs whose final `metrics` are given."""
    found = []
    for column, name in _quantities(row).items():
        ours = [run[name] for run in metrics if name in run]
        if not isnan(row[column]) and len(ours) == len(metrics):
            spread = row.get(f"{column}_std", float("nan"))
            numbers = estimate(ours)
            verdict = NOT_COMPARABLE if why_not else _verdict(row[column], numbers)
            found.append(Comparison(column, row[column], None if isnan(spread) else spread, numbers, verdict))
    return Reproduction(row, words, len(metrics), tuple(found), tuple(why_not))


def reasons(row: Mapping[str, Any], typed: Sequence[str]) -> list[str]:
    """Why a run of `row` with what the user `typed` says nothing about the paper's number; none where it does."""
    changed = [
        word
        for word in typed
        if not any(word.partition("=")[0] == free or word.startswith(f"{free}.") for free in HARMLESS)
    ]
    found = [f"its settings were changed: {' '.join(changed)}"] if changed else []
    if row["gain_reference"] == "svd_training_base":
        found.append("the paper prints this gain against another network's accuracy")
    return found


def _quantities(row: Mapping[str, Any]) -> dict[str, str]:
    """Columns of the published table, and which of our metrics is the same thing."""
    if row["method"] == "svd_training":  # both papers' numbers are of the best epoch, and against the full-rank network
        tops = {f"gain_{top}": f"gain/base_best_{top}" for top in ("top1", "top5")}
        tops |= {f"dense_{top}": f"base/best_{top}" for top in ("top1", "top5")}
    elif row["gain_reference"] == "pretrained_model":  # decomposed, not trained again
        tops = {f"gain_{top}": f"gain/base_{top}" for top in ("top1", "top5")}
    else:
        tops = {"gain_top1": "gain/top1", "top1": "final/top1", "dense_top1": "dense/top1"}
    rule = (
        {"speed_up": f"cost/speed_up_{row['counting']}"}
        if row["counting"] in ("conv", "sfp", "cnn_fcf", "thop")
        else {}
    )
    return tops | rule | ({"sparsity": "cost/sparsity"} if row["method"] == "ssc" else {})


def _verdict(theirs: float, ours: Estimate) -> str:
    if not isfinite(ours.low):
        return "one seed: no interval"
    if ours.low <= theirs <= ours.high:
        return "within"
    return "above" if ours.mean > theirs else "below"


def show(every: Sequence[Reproduction], folder: Path) -> None:
    """Print of each row theirs, ours with its interval, the deviation and the verdict; they were filed in `folder`."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(), Table("row", "", "published", "ours", "deviation", "verdict")
    for found in every:
        row, name = found.row, found.row["id"].rpartition("/")[2]
        mark = f" ({row['mark']}: {row['note']})" if row["mark"] else ""
        seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
        head = ", ".join([f"{row['id']}: {row['label']}", row["model"], row["dataset"], seeds])
        console.print(f"{head}{mark}", soft_wrap=True, highlight=False, markup=False)
        for item in found.comparisons:
            printed = f"{item.theirs:g}" + ("" if item.spread is None else f" ± {item.spread:g}")
            interval = "" if isnan(item.ours.low) else f" [{item.ours.low:.4g}, {item.ours.high:.4g}]"
            ours = f"{item.ours.mean:.4g}{interval}"
            table.add_row(name, item.quantity, printed, ours, f"{item.deviation:+.4g}", item.verdict)
            name = ""
    console.print(table)
    for reason in dict.fromkeys(reason for found in every for reason in found.reasons):
        console.print(f"not a reproduction: {reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"intervals: Student's t, 95 %\nfiled in {folder}", soft_wrap=True, highlight=False)


def _plain(value: Any) -> Any:
    """JSON data: numbers that are not finite become None, numpy's become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not isfinite(value) else value
