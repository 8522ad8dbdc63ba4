"""The leaderboard's data: a row per run, and the parameters of each setting, joined with what was published before, so
that a board grows by runs of several machines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.core.constraints import make
from paredown.core.errors import UserError
from paredown.core.files import read_json
from paredown.core.target import Target
from paredown.report.conditions import BENCHED, usual
from paredown.report.grouping import CONTROL, Described, controlled, identity, key, label, labels, varied

if TYPE_CHECKING:
    import pandas

    from paredown.report.runs import Recorded

RUNS, SETTINGS = "leaderboard.csv", "leaderboard_settings.json"
METRICS = {
    "top1": "final/top1",
    "macs": "cost/macs",
    "speed_up": "cost/speed_up",
    "sparsity": "cost/sparsity",
    "bytes": "cost/bytes",
    "images": "price/images",
    "other_images": "price/other_images",
    "compression_images": "price/compression_images",
    "seconds": "price/seconds",
    "ms_b1": "bench/ms_b1",
    "dense_ms_b1": "bench/dense_ms_b1",
    "ms_b32": "bench/ms_b32",
    "dense_ms_b32": "bench/dense_ms_b32",
    "latency_speed_up": "latency/speed_up",
}
OPTIONAL = ("latency_speed_up",)  # columns that the file has only where a run has them, as before they were known
TIMES = ("ms_b1", "ms_b32")
LARGEST = 1e100  # squares of larger numbers overflow
LIMITS = {"top1": (0.0, 100.0), "sparsity": (-LARGEST, 1.0)}  # factors of full rank have more weights than the dense
SPENT = ("trainings", "hours")  # columns of what a run trained and no run above it: their sums are those of all
SECONDS_AN_HOUR = 3600
TAGS = ("setting", "method", "target", "control", "of", "seed", "model", "dataset", "device", "code", "key")
NO_TARGET = "none"  # the tag of a run without a target
LABELLED = ("method", "target", "model", CONTROL)  # the tags that a label is made of
ONE_RUN = ["key", "seed"]
ALWAYS = ("top1", *SPENT)
SEED = "[0-9]{1,18}"


@dataclass(frozen=True)
class Board:
    """`table`: a row per run, columns TAGS, METRICS (nan where a run lacks one) and SPENT, sorted by setting and seed.
    `settings`: the parameters of each setting by its key."""

    table: pandas.DataFrame
    settings: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Settings:
    """`sweep`: whose board it is; `shared`: parameters of every setting; `settings`: the others, by setting."""

    sweep: str
    shared: dict[str, str]
    settings: dict[str, dict[str, str]]


def without_odd_times(recorded: Recorded) -> Recorded:
    """Return `recorded` without what a bench timed under other conditions than those of a board (`conditions.usual`),
    which a line in its `missing` counts."""
    import pandas

    runs = recorded.runs
    timed = [metric for metric in METRICS.values() if metric.startswith(BENCHED) and metric in runs]
    alike = {metric: [usual(tags, metric) for tags in runs["bench"]] for metric in timed}
    kept = runs.assign(**{metric: runs[metric].where(pandas.Series(alike[metric], runs.index)) for metric in timed})
    lost = int((runs[timed].notna() & kept[timed].isna()).any(axis=1).sum())
    lines = [f"runs with times of other conditions than threads=1 deploy=auto, left out: {lost}"] if lost else []
    return replace(recorded, runs=kept, missing=recorded.missing + lines)


def collect(runs: pandas.DataFrame) -> Board:
    """Return the board of recorded `runs`. Raise UserError for one whose seed or whose numbers cannot be."""
    import pandas

    runs = runs.sort_values(["setting", "seed"], kind="stable").reset_index(drop=True)
    data = {name: runs[name] for name in TAGS}
    data |= {name: runs.get(metric, math.nan) for name, metric in METRICS.items()}
    table = pandas.DataFrame(data).join(_spent(runs["price"]))
    faults = [("seed", ~runs["seed"].str.fullmatch(SEED)), *_outside(table)]
    for column, wrong in faults:
        if wrong.any():
            raise _odd_run(runs[wrong].iloc[0], METRICS.get(column, column), table.loc[wrong, column].iloc[0])
    table = table.astype({"seed": int})
    return Board(table, dict(zip(runs["key"], runs["identity"].map(json.loads), strict=True)))


def _outside(table: pandas.DataFrame) -> Iterator[tuple[str, pandas.Series[bool]]]:
    """Yield each column of numbers of `table`, and which of its values cannot be: below zero, infinite, beyond its
    LIMITS, or absent where every run has one."""
    for name in (*METRICS, *SPENT):
        fits = table[name].between(*LIMITS.get(name, (0.0, LARGEST)))
        yield name, ~fits if name in ALWAYS else ~fits & table[name].notna()


def _odd_run(run: pandas.Series[Any], name: str, value: Any) -> UserError:
    found = f"has {name} {value!s}" if str(value) else f"has no {name}"
    return UserError(f"run {run['name']} ({run['run_id']}) {found}: it cannot be ranked; delete it in MLflow")


def _spent(prices: pandas.Series[Any]) -> pandas.DataFrame:
    """Return the trainings of each run that are of no run before it, and the hours of its stages that are not."""
    import pandas

    seen: set[str] = set()
    rows = []
    for entries in prices:
        own = [entry for entry in entries if entry["key"] not in seen] if isinstance(entries, list) else []
        seen |= {entry["key"] for entry in own}
        seconds = sum(entry["seconds"] for entry in own)
        rows.append((sum(entry["epochs"] > 0 for entry in own), seconds / SECONDS_AN_HOUR))
    return pandas.DataFrame(rows, columns=list(SPENT), index=prices.index)


def join(new: Board, published: Board) -> Board:
    """Return `new` with the runs of `published` that it has not, all labelled by what varies among them together."""
    import pandas

    have = pandas.MultiIndex.from_frame(new.table[ONE_RUN])
    kept = published.table[~pandas.MultiIndex.from_frame(published.table[ONE_RUN]).isin(have)]
    if kept.empty:
        return new
    table = pandas.concat([new.table, kept], ignore_index=True)
    known = {**published.settings, **new.settings}
    settings = {name: known[name] for name in table["key"].unique()}
    table = _labelled(table, settings).sort_values(["setting", "seed"], kind="stable", ignore_index=True)
    return Board(table, settings)


def _labelled(table: pandas.DataFrame, settings: Mapping[str, Mapping[str, str]]) -> pandas.DataFrame:
    tags = table.drop_duplicates("key").set_index("key")[list(LABELLED)].to_dict("index")
    runs = {name: Described({str(k): str(v) for k, v in tags[name].items()}, settings[name]) for name in settings}
    varying = varied(list(runs.values()))
    names = labels({identity(run): label(run, varying) for run in runs.values()})
    of = {name: names.get(controlled(run), "") if run.tags[CONTROL] else "" for name, run in runs.items()}
    named = {name: names[identity(run)] for name, run in runs.items()}
    return table.assign(setting=table["key"].map(named), of=table["key"].map(of))


def write(board: Board, sweep: str, folder: Path) -> None:
    """Write the `board` of `sweep` into `folder`: RUNS and SETTINGS."""
    unknown = [name for name in OPTIONAL if board.table[name].isna().all()]
    board.table.drop(columns=unknown).to_csv(folder / RUNS, index=False, float_format="%.10g")
    every = [set(parameters.items()) for parameters in board.settings.values()]
    shared = dict(sorted(set.intersection(*every)))
    own = {
        name: {parameter: value for parameter, value in sorted(parameters.items()) if parameter not in shared}
        for name, parameters in sorted(board.settings.items())
    }
    text = json.dumps({"sweep": sweep, "shared": shared, "settings": own}, indent=1)
    (folder / SETTINGS).write_text(text + "\n")


def load(path: Path) -> pandas.DataFrame:
    """Return the table that `write` wrote to the CSV file `path`. Raise UserError where it is none, a number is none, a
    row is cut, or a run stands there twice."""
    import pandas

    numbers = (*METRICS, *SPENT)
    try:
        table = pandas.read_csv(path, keep_default_na=False, na_values={name: [""] for name in numbers})
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    table = table.assign(**{name: math.nan for name in OPTIONAL if name not in table})
    if absent := [name for name in (*TAGS, *numbers) if name not in table]:
        raise _damaged(path, f"it has no column {', '.join(absent)}")
    if wrong := [name for name in numbers if not pandas.api.types.is_numeric_dtype(table[name])]:
        raise _damaged(path, f"column {wrong[0]} has more than numbers")
    if not pandas.api.types.is_integer_dtype(table["seed"]):
        raise _damaged(path, "column seed has more than whole numbers")
    if not (table["top1"].between(0, 100) & table[list(SPENT)].notna().all(axis=1)).all():
        raise _damaged(path, "a row is cut, or its top1 is no percentage")
    if beyond := [(name, table.loc[wrong, name].iloc[0]) for name, wrong in _outside(table) if wrong.any()]:
        raise _damaged(path, f"column {beyond[0][0]} has {beyond[0][1]:g}")
    try:
        for text in table["target"].unique():
            target_of(text)
    except UserError as error:
        raise _damaged(path, str(error)) from error
    if table.duplicated(ONE_RUN).any():
        raise _damaged(path, "a run stands there twice")
    return table


def target_of(text: str) -> Target | None:
    """Return the target that the tag `text` names; None for a run without one. Raise UserError for what names none."""
    if text in ("", NO_TARGET):
        return None
    quantity, _, value = text.partition("=")
    try:
        return make(Target, {"quantity": quantity, "value": float(value)}, "target")
    except ValueError as error:
        raise UserError(f"{text!r} is no target") from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is no leaderboard's data: {why}. Take it from its last commit, or give another --folder")


def read(folder: Path, sweep: str) -> Board | None:
    """Return the board of `sweep` that `write` left in `folder`; None if there is none. Raise UserError if it is
    another sweep's, or damaged."""
    if not (folder / RUNS).exists():
        return None
    table = load(folder / RUNS)
    found: _Settings = read_json(folder / SETTINGS, _Settings, "take both files from one commit")
    if found.sweep != sweep:
        raise UserError(f"{folder} holds the leaderboard of sweep {found.sweep!r}: give another --folder")
    settings = {name: found.shared | own for name, own in found.settings.items()}
    wrong = [
        name
        for name in table["key"].unique()
        if name not in settings or key(identity(Described({}, settings[name]))) != name
    ]
    if wrong:
        raise UserError(f"{folder / SETTINGS} lacks settings of {RUNS}, such as {wrong[0]}: take both from one commit")
    return Board(table, settings)
