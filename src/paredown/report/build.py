"""The answer to a request: the front, the best under the budget, what it cost, what it is compared with."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.errors import UserError
from paredown.frontier import front
from paredown.frontier.axes import Axis, Budget, axis, budgets
from paredown.frontier.seeds import UNDECIDED, Estimate
from paredown.report.compare import overlay
from paredown.report.controls import controls
from paredown.report.price import Price, price
from paredown.report.request import Request
from paredown.report.runs import Recorded, read, store_of
from paredown.report.words import hover
from paredown.tracking.client import connect, outages_as

if TYPE_CHECKING:
    import pandas

LAYERS, BENCH = "layers.json", "bench.json"
DENSE_AT = {"cost/speed_up": 1.0, "cost/compression": 1.0, "cost/sparsity": 0.0, "latency/speed_up": 1.0}


@dataclass(frozen=True)
class Chosen:
    """The setting looked at closely, why, one run of it (`run_id`, `name`, `link`), that run's layers (None where
    they were not recorded; with `dense_ms` and `ms` where a bench was), its measured times in ms a batch, before and
    after, and in words what the `bench` timed the layers on."""

    setting: str
    why: str
    run: dict[str, Any]
    layers: list[dict[str, Any]] | None
    latency: tuple[float, float]
    bench: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that is shown. `every` run, and `runs`, those of them that are no controls. `points`: the settings as
    `front.settings` gives them, with `method`, `model`, `text`, `link`; `controls`: those beside them, as
    `controls.controls` does, which are no points of the front; `areas`: the dominated share by method, "all" first;
    `corner`: its reference point."""

    request: Request
    x: Axis
    y: Axis
    every: pandas.DataFrame
    runs: pandas.DataFrame
    points: pandas.DataFrame
    controls: pandas.DataFrame
    published: pandas.DataFrame
    not_compared: list[str]
    bounds: list[Budget]
    best: tuple[str, list[str]] | None
    chosen: Chosen
    areas: dict[str, Estimate]
    corner: tuple[float, float]
    price: Price
    missing: list[str]
    parent: str | None

    @property
    def labelled(self) -> tuple[pandas.DataFrame, pandas.DataFrame]:
        """`points` and `controls` as they are drawn: by method, and of several models by method and model."""
        tables = (self.points, self.controls)
        if self.points["model"].nunique() < 2:
            return tables
        points, beside = (table.assign(method=table["method"] + ", " + table["model"]) for table in tables)
        return points, beside

    @property
    def scope(self) -> str:
        """What it is on, in a line."""
        models = ", ".join(sorted(set(self.runs["model"])))
        seeds = f"{self.runs['seed'].nunique()} seeds" if self.runs["seed"].nunique() > 1 else "one seed"
        counts = f"{len(self.points)} settings, {len(self.runs)} runs, {seeds}"
        beside = f"; {len(self.controls)} controls" if len(self.controls) else ""
        return f"{models} on {self.runs['dataset'].iloc[0]}: {counts}{beside}"


def build(request: Request) -> Report:
    """The report on `request`, from MLflow alone. UserError for whatever is wrong with the request or the runs."""
    recorded = read(request)
    x, y = axis(request.x, recorded.metrics), axis(request.y, recorded.metrics)
    bounds = budgets(request.budget, recorded.metrics)
    every = _usable(recorded, [x, y, *(bound.axis for bound in bounds)])
    _comparable(every, x, y)
    runs = every[every["control"] == ""]
    if runs.empty:
        raise UserError(f"{request.title} has controls alone: name the runs that they stand beside too")
    paid = price(every)
    points = _described(front.settings(runs, x, y), runs, x, y, paid)
    beside = controls(every, x, y)
    theirs, not_compared = overlay(runs, x, y)
    best = front.best(runs, y, bounds) if bounds else None
    areas, corner = _areas(runs, x, y)
    missing = recorded.missing + _missing(points, every, paid, bounds, best)
    chosen = _choose(request, runs, points, best, y)
    if chosen.layers is None:
        missing.append(f"the layers of {chosen.run['name']}: its run has no {LAYERS}")
    found = (every, runs, points, beside, theirs, not_compared, bounds, best, chosen, areas, corner, paid, missing)
    return Report(request, x, y, *found, recorded.parent)


def _usable(recorded: Recorded, axes: list[Axis]) -> pandas.DataFrame:
    """The runs that have every metric that is drawn or bounded."""
    names = list(dict.fromkeys(a.name for a in axes))
    runs = recorded.runs
    for name in names:
        if lost := int(runs[name].isna().sum()):
            recorded.missing.append(f"runs without {name}, not shown: {lost} of {len(runs)}")
    usable = runs.dropna(subset=names)
    if usable.empty:
        raise UserError(f"no run has {' and '.join(names)} together")
    return usable


def _comparable(runs: pandas.DataFrame, x: Axis, y: Axis) -> None:
    for drawn in (x, y):
        if drawn.relative and runs["model"].nunique() > 1:
            models = ", ".join(sorted(set(runs["model"])))
            raise UserError(f"{drawn.name} is told against each model's own dense network: give model= one of {models}")
        if drawn.measured and runs["device"].nunique() > 1:
            devices = ", ".join(sorted(set(runs["device"])))
            raise UserError(f"{drawn.name} was measured on several devices, {devices}: give runs=[...] of one of them")


def _described(points: pandas.DataFrame, runs: pandas.DataFrame, x: Axis, y: Axis, paid: Price) -> pandas.DataFrame:
    first = runs.drop_duplicates("setting").set_index("setting")
    points = points.join(first[["method", "model", "link", "knobs"]])
    points["text"] = [hover(str(name), row, x, y, paid) for name, row in points.iterrows()]
    return points


def _areas(runs: pandas.DataFrame, x: Axis, y: Axis) -> tuple[dict[str, Estimate], tuple[float, float]]:
    """The dominated share of the box between the worst and the best single runs, the dense network's x among them."""
    dense = [DENSE_AT[x.name]] if x.name in DENSE_AT else []
    name = x.name.replace("/", "/dense_", 1)
    dense += [float(runs[name].max())] if name in runs else []
    values = {"x": [*runs[x.name], *dense], "y": list(runs[y.name])}
    up = {"x": x.maximize, "y": y.maximize}
    worst, good = (tuple((min if up[a] is low else max)(values[a]) for a in ("x", "y")) for low in (True, False))
    corner, ideal = (worst[0], worst[1]), (good[0], good[1])
    methods = sorted(set(runs["method"]))
    groups = {"all": runs} | {method: runs[runs["method"] == method] for method in methods if len(methods) > 1}
    found = {name: front.dominated_area(group, x, y, corner, ideal) for name, group in groups.items()}
    return {name: area for name, area in found.items() if area is not None}, corner


def _missing(
    points: pandas.DataFrame, runs: pandas.DataFrame, paid: Price, bounds: list[Budget], best: Any
) -> list[str]:
    lines = []
    if alone := int((points["seeds"] == 1).sum()):
        which = f"{alone} of {len(points)}"
        lines.append(f"settings of one seed, without interval and told apart by counted costs alone: {which}")
    if undecided := int((points["state"] == UNDECIDED).sum()):
        lines.append(f"undecided settings, which more seeds would decide: {undecided}")
    if bounds and best is None:
        lines.append(f"no setting keeps {' and '.join(map(str, bounds))}")
    if paid.unknown:
        lines.append(
            f"{paid.unknown} of {len(runs)} runs do not tell what their stages took (recorded by an older version)"
        )
    return lines


def _choose(
    request: Request, runs: pandas.DataFrame, points: pandas.DataFrame, best: tuple[str, list[str]] | None, y: Axis
) -> Chosen:
    """The best under the budget; else the knee; else the front's best that is not dense."""
    bend = points.index[points["knee"]]
    if best:
        setting, why = best[0], f"best under {request.budget}"
    elif len(bend):
        setting, why = str(bend[0]), "the knee of the front"
    else:
        ranked = points[points["front"]].sort_values("y", ascending=not y.maximize, kind="stable")
        smaller = ranked[ranked["method"] != "dense"]
        setting, why = str((smaller if len(smaller) else ranked).index[0]), "the front's best compressed setting"
    own = runs[runs["setting"] == setting].sort_values("seed").iloc[0]
    run = {name: own[name] for name in ("run_id", "name", "link", "seed")}
    times = tuple(float(own.get(f"latency/{name}", math.nan)) for name in ("dense_ms", "ms"))
    layers, bench = _artifact(request, own["run_id"], LAYERS), _artifact(request, own["run_id"], BENCH)
    if not (layers and bench):
        return Chosen(setting, why, run, layers, (times[0], times[1]))
    timed = {row["layer"]: row for row in bench["layers"]}
    layers = [row | {name: timed.get(row["layer"], {}).get(name) for name in ("dense_ms", "ms")} for row in layers]
    quiet = "" if bench["is_quiet"] else ", while other things ran"
    on = f"batch {bench['layers_batch']}, {bench['threads']} threads, {bench['device']}{quiet}"
    return Chosen(setting, why, run, layers, (times[0], times[1]), on)


def _artifact(request: Request, run: str, name: str) -> Any:
    """The JSON artifact `name` of a run; None where it has none."""
    with outages_as(UserError, "MLflow's artifacts cannot be read: "), tempfile.TemporaryDirectory() as folder:
        client = connect(store_of(request))
        if name not in {artifact.path for artifact in client.list_artifacts(run)}:
            return None
        return json.loads(Path(client.download_artifacts(run, name, folder)).read_text())
