"""Reproduction of published rows: several seeds are run, and their means compared with the printed numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError, nearest
from paredown.core.files import write_text
from paredown.core.formatting import counted
from paredown.frontier.seeds import Estimate, estimate
from paredown.published.differences import differences
from paredown.published.quantities import Quantity, quantities
from paredown.published.settings import commands, only_row, overrides, rows
from paredown.published.table import PublishedRow
from paredown.run.walk import Result

# Overrides that do not affect what is compared.
HARMLESS = (
    *("seed", "seeds", "output", "store", "tracking", "latency", "deploy", "trust"),
    *("dataset.root", "dataset.cache", "dataset.workers", "method.packed", "reproduce"),
    # not the number of ranks: with it batches, and batch norms' statistics, are others
    *("trainer.accelerator", "trainer.threads", "trainer.eval_batch_size", "trainer.checkpoint_seconds"),
    "trainer.progress",
    "progress",
)
NOT_COMPARABLE, NOT_COMPARED = "not comparable", "not compared"
NEEDS_DENSE = {
    f"{what}/best_{top}": ": run method=dense with the same settings first"
    for what in ("gain", "dense")
    for top in ("top1", "top5")
}


@dataclass(frozen=True)
class Comparison:
    """A printed number, our estimate over the seeds (NaN where ours is not the same quantity), and the verdict on their
    deviation with a `note`: the tolerance, or why the two are not compared."""

    quantity: str
    theirs: float
    spread: float | None  # the printed standard deviation
    ours: Estimate
    verdict: str
    note: str = ""

    @property
    def deviation(self) -> float:
        """Our mean minus theirs."""
        return self.ours.mean - self.theirs


@dataclass(frozen=True)
class Reproduction:
    """A published row, the overrides that it was run with, its comparisons, and the reasons why they may be invalid."""

    row: PublishedRow
    overrides: tuple[str, ...]
    seeds: int
    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...]

    def save(self, output: Path) -> Path:
        """Write it as JSON below `output` and return the path."""
        path = output / "reproductions" / f"{self.row['id'].replace('/', '-')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"row": _plain(self.row), "overrides": self.overrides, "seeds": self.seeds, "reasons": self.reasons}
        found = [asdict(comparison) | {"deviation": comparison.deviation} for comparison in self.comparisons]
        write_text(path, json.dumps(_plain(data | {"comparisons": found}), indent=1))
        return path


def runnable(name: str, model: str | None) -> dict[str, list[str]]:
    """Return the overrides of every row of `name` that can be run, by the row's id, restricted to `model` if given.
    Raise UserError with the reason of the first row if none can."""
    found: dict[str, list[str]] = {}
    first = None
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
    return found


def reproduce(name: str, typed: Sequence[str], seeds: int, run: Callable[[list[str]], Result]) -> Reproduction:
    """Run the published row `name` with seeds 0 to `seeds` - 1 and compare. Raise UserError if it cannot be run."""
    if seeds < 1:
        raise UserError(f"seeds={seeds} is not at least 1")
    row = only_row(name)
    every = commands(row, typed, seeds)
    metrics = [run(words).metrics for words in every]
    return compare(row, tuple(every[0][:-1]), metrics, reasons(row, typed))


def compare(
    row: PublishedRow, words: tuple[str, ...], metrics: Sequence[Mapping[str, float]], why_not: Sequence[str]
) -> Reproduction:
    """Compare every number of `row` with the final `metrics` of its runs, or say why it is not compared; `why_not`
    holds the reasons why none is comparable, if any."""
    found = [_compared(row, quantity, metrics, bool(why_not)) for quantity in quantities(row)]
    return Reproduction(row, words, len(metrics), tuple(found), tuple(why_not))


def reasons(row: PublishedRow, typed: Sequence[str]) -> list[str]:
    """Return the reasons why runs of `row` with the overrides `typed` are not comparable with the paper's number."""
    own = overrides(row)
    changed = [
        word
        for word in typed
        if word not in own
        and not any(word.lstrip("+").partition("=")[0] == free or word.startswith(f"{free}.") for free in HARMLESS)
    ]
    return [f"its settings were changed: {' '.join(changed)}"] if changed else []


def _compared(
    row: PublishedRow, quantity: Quantity, metrics: Sequence[Mapping[str, float]], changed: bool
) -> Comparison:
    """Compare the number `quantity` of `row` with that of the runs with `metrics`, whose settings were `changed`."""
    spread = row.get(f"{quantity.column}_std", nan)
    given = (quantity.column, quantity.theirs, None if isnan(spread) else spread)
    found = [quantity.ours(run) for run in metrics]
    ours = [value for value in found if value is not None]
    if not ours or len(ours) < len(found):
        why = quantity.why or f"these runs have no {quantity.metric}{NEEDS_DENSE.get(quantity.metric or '', '')}"
        return Comparison(*given, Estimate(nan, nan, nan, 0), NOT_COMPARED, why)
    numbers = estimate(ours)
    notes = ["asked for"] if quantity.asked else []
    notes += [f"tolerance {quantity.tolerance:.2g}"] if quantity.counted else []
    return Comparison(*given, numbers, NOT_COMPARABLE if changed else _verdict(quantity, numbers), ", ".join(notes))


def _verdict(quantity: Quantity, ours: Estimate) -> str:
    """Return the verdict on `ours`: the printed number, known to its tolerance, is in the interval or on a side. The
    count of a network that does not depend on the seed is exact."""
    theirs, tolerance = quantity.theirs, quantity.tolerance
    exact = quantity.fixed and not isfinite(ours.low)
    low, high = (ours.mean, ours.mean) if exact else (ours.low, ours.high)
    if not isfinite(low):
        return "one seed: no interval"
    if low - tolerance <= theirs <= high + tolerance:
        return "within"
    return "above" if ours.mean > theirs else "below"


def show(every: Sequence[Reproduction], folder: Path) -> None:
    """Print each row's published numbers, ours with intervals, deviations and verdicts, saved in `folder`."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(), Table("row", "", "published", "ours", "deviation", "verdict")
    for found in every:
        row, name = found.row, found.row["id"].rpartition("/")[2]
        mark = f" ({row['mark']}: {row['note']})" if row["mark"] else ""
        seeds = counted(found.seeds, "seed")
        head = ", ".join([f"{row['id']}: {row['label']}", row["model"], row["dataset"], seeds])
        console.print(f"{head}{mark}", soft_wrap=True, highlight=False, markup=False)
        for item in found.comparisons:
            printed = f"{item.theirs:g}" + ("" if item.spread is None else f" ± {item.spread:g}")
            interval = "" if isnan(item.ours.low) else f" [{item.ours.low:.4g}, {item.ours.high:.4g}]"
            ours = "" if isnan(item.ours.mean) else f"{item.ours.mean:.4g}{interval}"
            deviation = "" if isnan(item.ours.mean) else f"{item.deviation:+.4g}"
            verdict = f"{item.verdict} ({item.note})" if item.note else item.verdict
            table.add_row(name, item.quantity, printed, ours, deviation, verdict)
            name = ""
    console.print(table)
    for text in dict.fromkeys(text for found in every for text in differences(found.row)):
        console.print(f"differs from the paper: {text}", soft_wrap=True, highlight=False, markup=False)
    for reason in dict.fromkeys(reason for found in every for reason in found.reasons):
        console.print(f"not a reproduction: {reason}", soft_wrap=True, highlight=False, markup=False)
    said = "intervals: Student's t, 95 %, and the rounding of what is printed; counted costs: and the tolerance shown"
    console.print(f"{said}\nwritten to {folder}", soft_wrap=True, highlight=False)


def _plain(value: Any) -> Any:
    """Convert `value` to JSON data: numbers that are not finite become None, numpy's become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not isfinite(value) else value
