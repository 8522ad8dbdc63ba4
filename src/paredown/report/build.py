"""Reports: the front of a request's runs, the best setting under the budget, training cost and published rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from paredown.core.errors import UserError, printable
from paredown.core.formatting import counted, si
from paredown.core.layout import BENCH, LAYERS
from paredown.frontier import front
from paredown.frontier.axes import Axis, Budget, axis, budgets
from paredown.frontier.seeds import UNDECIDED, Estimate
from paredown.report.compare import overlay
from paredown.report.conditions import BENCHED, conditions, loud
from paredown.report.controls import controls
from paredown.report.formatting import hover
from paredown.report.layers import Layer, artifact, read_layers
from paredown.report.request import Request
from paredown.report.runs import Recorded, read, store_of
from paredown.report.targets import add_targets
from paredown.report.training_cost import TrainingCost, training_cost
from paredown.tracking.client import connect, outages_as

if TYPE_CHECKING:
    import pandas

LARGEST = 1e100  # value of an axis that can be drawn: squares of larger ones overflow
DENSE, MACS, DENSE_MACS = "dense", "cost/macs", "cost/dense_macs"
DENSE_AT = {"cost/speed_up": 1.0, "cost/compression": 1.0, "cost/sparsity": 0.0, "latency/speed_up": 1.0}


@dataclass(frozen=True)
class _Timed:
    layer: str
    dense_ms: float | None
    ms: float | None


@dataclass(frozen=True)
class _Benched:
    """What a report reads of a bench's file."""

    layers: list[_Timed]
    layers_batch: int
    threads: int
    device: str
    is_quiet: bool


@dataclass(frozen=True)
class Chosen:
    """The setting shown layer by layer and `why` it was chosen; one `run` of it (`run_id`, `name`, `link`, `seed`) and
    its `layers` (None if not recorded; with `dense_ms` and `ms` if benchmarked); `latency` in ms per batch, dense and
    compressed; `bench`: the conditions under which the layers were timed."""

    setting: str
    why: str
    run: dict[str, Any]
    layers: list[dict[str, Any]] | None
    latency: tuple[float, float]
    bench: str = ""


@dataclass(frozen=True)
class Report:
    """All data shown. `every` run; `runs`: without controls. `points`: the settings as `front.settings` returns them,
    with `key`, `method`, `model`, `link`, `hyperparameters`, `text` and the columns of `targets.add_targets`;
    `controls`: as `controls.controls` returns them; `layers`: as `layers.read_layers` does, of each setting's run of
    the first seed; `areas`: the dominated share by method, "all" first; `corner`: its reference point; `parent`: the
    run of the sweep that the report is published on."""

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
    layers: dict[str, list[dict[str, Any]]]
    areas: dict[str, Estimate]
    corner: tuple[float, float]
    training_cost: TrainingCost
    missing: list[str]
    parent: str | None

    @property
    def labelled(self) -> tuple[pandas.DataFrame, pandas.DataFrame]:
        """`points` and `controls` as they are drawn: by method, or by method and model if there are several models."""
        tables = (self.points, self.controls)
        if self.points["model"].nunique() < 2:
            return tables
        points, controls = (table.assign(method=table["method"] + ", " + table["model"]) for table in tables)
        return points, controls

    @cached_property
    def means(self) -> pandas.DataFrame:
        """The means of all metrics over the seeds of each setting, controls too."""
        return self.every.groupby("setting", sort=False).mean(numeric_only=True)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each setting and control in the page's order."""
        return {str(name): place for place, name in enumerate([*self.points.index, *self.controls.index])}

    @property
    def scope(self) -> str:
        """Models, data set, and the numbers of settings, runs, seeds and controls."""
        models = ", ".join(sorted(set(self.runs["model"])))
        seeds = f"{self.runs['seed'].nunique()} seeds" if self.runs["seed"].nunique() > 1 else "one seed"
        counts = f"{counted(len(self.points), 'setting')}, {counted(len(self.runs), 'run')}, {seeds}"
        more = f"; {counted(len(self.controls), 'control')}" if len(self.controls) else ""
        return f"{models} on {self.runs['dataset'].iloc[0]}: {counts}{more}"


def build(request: Request) -> Report:
    """Build the report on `request` from MLflow's records alone. Raise UserError if the request is invalid or its runs
    cannot be compared."""
    recorded = read(request)
    x, y = axis(request.x, recorded.metrics), axis(request.y, recorded.metrics)
    bounds = budgets(request.budget, recorded.metrics)
    every = _usable(recorded, [x, y])
    _require_comparable(every, [x, y, *(bound.axis for bound in bounds)])
    runs = every[every["control"] == ""]
    if runs.empty:
        raise UserError(f"{request.title} has only controls: name the runs that they are controls of too")
    cost = training_cost(every)
    points = _described(front.settings(runs, x, y), runs, x, y, cost)
    published, not_compared = overlay(runs, x, y)
    best = front.best(runs, y, bounds) if bounds else None
    areas, corner = _areas(runs, x, y)
    missing = recorded.missing + _missing(points, every, cost, bounds, best) + _not_known(runs, bounds)
    missing += _loud(runs, [x, y, *(bound.axis for bound in bounds)])
    chosen = _choose(request, runs, points, best, y, missing)
    if chosen.layers is None:
        missing.append(f"the layers of {chosen.run['name']}: its run has no {LAYERS}")
    layers = _layers(request, points, runs, missing)
    return Report(
        request=request,
        x=x,
        y=y,
        every=every,
        runs=runs,
        points=points,
        controls=controls(every, x, y),
        published=published,
        not_compared=not_compared,
        bounds=bounds,
        best=best,
        chosen=chosen,
        layers=layers,
        areas=areas,
        corner=corner,
        training_cost=cost,
        missing=missing,
        parent=recorded.parent,
    )


def _usable(recorded: Recorded, axes: list[Axis]) -> pandas.DataFrame:
    """Select the runs that have all metrics of `axes`, and note in `recorded.missing` how many lack one."""
    names = list(dict.fromkeys(a.name for a in axes))
    runs = recorded.runs
    for name in names:
        if lost := int(runs[name].isna().sum()):
            recorded.missing.append(f"runs without {name}, not shown: {lost} of {len(runs)}")
        if lost := int((runs[name].abs() > LARGEST).sum()):
            recorded.missing.append(f"runs whose {name} is beyond {LARGEST:g}, not shown: {lost} of {len(runs)}")
    usable = runs[(runs[names].abs() <= LARGEST).all(axis=1)]
    if usable.empty:
        raise UserError(f"no run has {' and '.join(names)} together")
    return usable


def _require_comparable(runs: pandas.DataFrame, axes: list[Axis]) -> None:
    """Raise UserError where an axis or a bound is relative to several networks, or was measured on several devices or
    under several conditions."""
    for one in axes:
        known = runs[runs[one.name].notna()]
        if one.relative and known["model"].nunique() > 1:
            models = ", ".join(sorted(set(known["model"])))
            raise UserError(f"{one.name} is relative to each model's own dense network: give model= one of {models}")
        if one.relative and len(references := _references(known)) > 1:
            listed = ", ".join(map(si, references))
            remedy = f"give runs=[...] of one of them, or {MACS} in its place"
            raise UserError(f"{one.name} is relative to dense networks of several sizes, {listed} MACs: {remedy}")
        if one.measured and known["device"].nunique() > 1:
            devices = ", ".join(sorted(set(known["device"])))
            raise UserError(f"{one.name} was measured on several devices, {devices}: give runs=[...] of one of them")
        timed = {conditions(tags, one.name) for tags in known["bench"]} - {""}
        if len(timed) > 1:
            listed = ", ".join(sorted(timed))
            raise UserError(f"{one.name} was timed under several conditions, {listed}: give runs=[...] of one of them")


def _references(runs: pandas.DataFrame) -> list[float]:
    """Return the MACs of the dense networks that `runs` are relative to, without those of dense networks themselves:
    a smaller one is against itself, and stands beside compressions of a larger one."""
    if DENSE_MACS not in runs:
        return []
    compressed = (runs["method"] != DENSE) & (runs["control"] != DENSE)
    return sorted(set(runs.loc[compressed, DENSE_MACS].dropna()))


def _loud(runs: pandas.DataFrame, axes: list[Axis]) -> list[str]:
    """Return a line for each of `axes` that a bench timed in some of `runs` while other things ran."""
    known = {one.name: runs.loc[runs[one.name].notna(), "bench"] for one in axes if one.name.startswith(BENCHED)}
    counts = {name: sum(loud(tags, name) for tags in bench) for name, bench in known.items()}
    return [f"runs whose {name} was timed while other things ran: {count}" for name, count in counts.items() if count]


def _not_known(runs: pandas.DataFrame, bounds: list[Budget]) -> list[str]:
    """Return a line for each metric of `bounds` that some settings of `runs` have in no seed: they keep no bound."""
    lines = []
    for name in dict.fromkeys(bound.axis.name for bound in bounds):
        known = runs.groupby("setting")[name].count() > 0
        if not known.all():
            lines.append(f"settings without {name}, which the budget leaves out: {int((~known).sum())} of {len(known)}")
    return lines


def _described(
    points: pandas.DataFrame, runs: pandas.DataFrame, x: Axis, y: Axis, cost: TrainingCost
) -> pandas.DataFrame:
    first = runs.drop_duplicates("setting").set_index("setting")
    points = add_targets(points.join(first[["key", "method", "model", "link", "hyperparameters"]]), runs)
    points["text"] = [hover(str(name), row, x, y, cost) for name, row in points.iterrows()]
    return points


def _areas(runs: pandas.DataFrame, x: Axis, y: Axis) -> tuple[dict[str, Estimate], tuple[float, float]]:
    """Estimate by method, and for all, the dominated share of the box spanned by all runs and the dense network's x;
    return these and the worst corner of the box."""
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
    points: pandas.DataFrame, runs: pandas.DataFrame, cost: TrainingCost, bounds: list[Budget], best: Any
) -> list[str]:
    lines = []
    if single := int((points["seeds"] == 1).sum()):
        which = f"{single} of {len(points)}"
        lines.append(f"settings of one seed, without interval, compared by counted costs alone: {which}")
    if undecided := int((points["state"] == UNDECIDED).sum()):
        lines.append(f"undecided settings, which more seeds would decide: {undecided}")
    if bounds and best is None:
        lines.append(f"no setting keeps {' and '.join(map(str, bounds))}")
    if cost.unknown:
        lines.append(f"runs without the training cost of every stage (older version): {cost.unknown} of {len(runs)}")
    return lines


def _choose(
    request: Request,
    runs: pandas.DataFrame,
    points: pandas.DataFrame,
    best: tuple[str, list[str]] | None,
    y: Axis,
    missing: list[str],
) -> Chosen:
    """Choose the best setting under the budget, else the knee, else the best compressed setting on the front. Note in
    `missing` what of its run is damaged."""
    bend = points.index[points["knee"]]
    if best:
        setting, why = best[0], f"best under {request.budget}"
    elif len(bend):
        setting, why = str(bend[0]), "the knee of the front"
    else:
        ranked = points[points["front"]].sort_values("y", ascending=not y.maximize, kind="stable")
        smaller = ranked[ranked["method"] != "dense"]
        setting, why = str((smaller if len(smaller) else ranked).index[0]), "the front's best compressed setting"
    first = runs[runs["setting"] == setting].sort_values("seed").iloc[0]
    run = {name: first[name] for name in ("run_id", "name", "link", "seed")}
    times = tuple(float(first.get(f"latency/{name}", math.nan)) for name in ("dense_ms", "ms"))
    found: list[Layer] | None = _artifact(request, first["run_id"], LAYERS, list[Layer], missing)
    bench: _Benched | None = _artifact(request, first["run_id"], BENCH, _Benched, missing)
    layers = None if found is None else [layer.row | {"blueprint": layer.blueprint} for layer in found]
    if not (layers and bench):
        return Chosen(setting, why, run, layers, (times[0], times[1]))
    timed = {printable(time.layer): {"dense_ms": time.dense_ms, "ms": time.ms} for time in bench.layers}
    layers = [row | timed.get(row["layer"], {}) for row in layers]
    quiet = "" if bench.is_quiet else ", while other things ran"
    on = f"batch {bench.layers_batch}, {bench.threads} threads, {printable(bench.device)}{quiet}"
    return Chosen(setting, why, run, layers, (times[0], times[1]), on)


def _layers(
    request: Request, points: pandas.DataFrame, runs: pandas.DataFrame, missing: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Read the layers of each setting's run of the first seed, those on the front first."""
    first = runs.sort_values("seed", kind="stable").drop_duplicates("setting").set_index("setting")["run_id"]
    order = points.sort_values("front", ascending=False, kind="stable").index
    with outages_as(UserError, "MLflow's artifacts cannot be read: "):
        return read_layers(connect(store_of(request)), {str(name): first[name] for name in order}, missing)


def _artifact(request: Request, run: str, name: str, kind: Any, missing: list[str]) -> Any:
    """Read the JSON artifact `name` of a run as `kind`; None if it has none, or a damaged one, noted in `missing`."""
    try:
        with outages_as(UserError, "MLflow's artifacts cannot be read: "):
            return artifact(connect(store_of(request)), run, name, kind)
    except UserError as error:
        missing.append(str(error))
        return None
