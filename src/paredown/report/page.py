"""The report as one HTML file that opens offline."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from paredown.core.errors import printable
from paredown.core.formatting import counted, number, si
from paredown.frontier import figure
from paredown.frontier.plots import per_layer
from paredown.report import targets
from paredown.report.build import Report
from paredown.report.changes import NOTHING, Changes
from paredown.report.commands import command
from paredown.report.controls import KINDS, sentences, signed, verdict
from paredown.report.formatting import share, spread
from paredown.report.training_cost import UNITS
from paredown.tracking.view import HOST

SHOWN = 5  # settings named in a sentence
TEMPLATE, STYLE, SCRIPT = (Path(__file__).parent / name for name in ("page.html", "page.css", "page.js"))
# further columns, if recorded: metric, head of the column
COLUMNS = {
    "final/top1": "top-1 (%)",
    "gain/top1": "gain (points)",
    "cost/macs": "MACs",
    "cost/speed_up": "fewer MACs",
    "cost/params": "parameters",
    "cost/sparsity": "sparsity",
    "latency/speed_up": "measured speed-up",
}


def render(report: Report, changes: Changes = NOTHING) -> str:
    """Render the whole page: front, settings, layers, training cost, published rows, missing data, and `changes`."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text())
    points, controls = report.labelled
    drawn = figure.draw(points, report.published, report.x, report.y, report.bounds, controls)
    layers = report.chosen.layers
    columns, costs = extra_columns(report), report.training_cost.settings
    return template.render(
        report=report,
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        changes=changes,
        # these contain no user input, so they need no escaping
        plotly=Markup(f"<script>{get_plotlyjs()}</script>"),
        css=Markup(STYLE.read_text()),
        js=Markup(SCRIPT.read_text()),
        figure=Markup(figure.part(drawn)),
        debug=not report.runs["debug"].isin(["None", ""]).all(),
        answers=answers(report),
        local=report.points["link"].iloc[0].startswith(f"http://{HOST}:"),
        server=report.points["link"].iloc[0].partition("/#/")[0],
        columns=list(columns.values()),
        target_head=targets.HEAD if targets.any_target(report.points) else "",
        settings=[_setting(report, str(name), row, list(columns)) for name, row in report.points.iterrows()],
        controls=[_control(report, str(name), row, list(columns)) for name, row in report.controls.iterrows()],
        kinds=KINDS,
        ways=_ways(report),
        compared=_compared(report),
        chosen_words=_chosen(report),
        layers=[_layer(row) for row in layers or []],
        layer_figure=Markup(figure.part(_layer_figure(layers))) if layers else "",
        bench=report.chosen.bench,
        training_cost=training_cost_summary(report),
        training_costs=[_training_cost(str(n), costs.loc[n]) for n in report.points.index if n in costs.index],
        published=[_published(row) for _, row in report.published.iterrows()],
    )


def answers(report: Report) -> list[str]:
    """Return the main findings as sentences: best setting, knee, states, missed targets, controls, dominated area."""
    lines = []
    budget = " and ".join(map(str, report.bounds))
    if report.best:
        setting, alike = report.best
        row = report.points.loc[setting]
        more = f" and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
        equal = f"; not significantly different: {', '.join(alike[:SHOWN])}{more}" if alike else ""
        lines.append(f"Best under {budget}: {setting}, {report.y.name} {spread(row, 'y')}{equal}.")
    elif report.bounds:
        lines.append(f"No setting keeps {budget}.")
    for setting in report.points.index[report.points["knee"]]:
        row = report.points.loc[setting]
        lines.append(f"Knee: {setting}, {report.y.name} {spread(row, 'y')} at {report.x.name} {spread(row, 'x')}.")
    states = ", ".join(f"{many} {state}" for state, many in report.points["state"].value_counts().items())
    lines.append(f"Of {counted(len(report.points), 'setting')}: {states}.")
    lines += targets.sentences(report.points)
    lines += sentences(report.controls, report.y)
    if report.areas:
        areas = ", ".join(f"{name} {share(area)}" for name, area in report.areas.items())
        corner = f"{report.x.name} {number(report.corner[0])}, {report.y.name} {number(report.corner[1])}"
        lines.append(f"Dominated area, as a share of the box from ({corner}) to the best run in each: {areas}.")
    return lines


def extra_columns(report: Report) -> dict[str, str]:
    """Return the metrics of COLUMNS that are recorded and not an axis, with the heads of their columns."""
    drawn = (report.x.name, report.y.name)
    return {name: head for name, head in COLUMNS.items() if name in report.runs and name not in drawn}


def cells(report: Report, setting: str, columns: list[str]) -> list[str]:
    """Format the means of the metrics `columns` over the seeds of `setting`, '' where no run has one."""
    means = report.means.loc[setting]
    return ["" if math.isnan(means[name]) else number(means[name]) for name in columns]


def training_cost_summary(report: Report) -> str:
    """Summarise the training cost of all runs, shared stages counted once."""
    cost = report.training_cost
    if not cost.stages:
        return "The training cost of these runs was not recorded."
    total, saved = ({unit: si(value) for unit, value in part.items()} for part in (cost.total, cost.saved))
    sums = f"{total['epochs']} epochs, {total['seconds']} s, {total['macs']} MACs"
    whole = f"Training cost of all runs: {cost.stages} distinct stages, {sums}"
    if not cost.reused:
        return f"{whole}. No stage was shared."
    less = f"{saved['epochs']} epochs, {saved['seconds']} s and {saved['macs']} MACs"
    return f"{whole}. Shared stages are counted once: they were reused {cost.reused} times, which saved {less}."


def _ways(report: Report) -> list[dict[str, Any]]:
    """Return for each setting and control its runs, with their certificates, and the command of the first."""
    found = []
    of_setting = dict(iter(report.every.sort_values("seed", kind="stable").groupby("setting", sort=False)))
    for name, row in [*report.points.iterrows(), *report.controls.iterrows()]:
        runs = of_setting[name]
        each = runs[["seed", "name", "link", "certificate"]].to_dict("records")
        ways = {"command": command(runs["params"].iloc[0]), "place": _place(report, str(name)), "link": row["link"]}
        found.append(ways | {"name": name, "runs": each})
    return found


def _place(report: Report, name: str) -> str:
    """Return the name of the place on the page that tells of the setting or control `name`."""
    return f"point-{report.places[name]}"


def _compared(report: Report) -> list[str]:
    """Return the two settings that are compared layer by layer until others are chosen: the chosen one and the next."""
    first = [report.chosen.setting] if report.chosen.setting in report.layers else []
    return [*first, *(name for name in report.layers if name not in first)][:2]


def _setting(report: Report, name: str, row: Any, columns: list[str]) -> dict[str, Any]:
    shown = {"name": name, "y": spread(row, "y"), "x": spread(row, "x"), "cells": cells(report, name, columns)}
    shown |= {key: row[key] for key in ("seeds", "state", "front")} | {"place": _place(report, name)}
    return shown | {"target": targets.cell(row), "chosen": name == report.chosen.setting}


def _control(report: Report, name: str, row: Any, columns: list[str]) -> dict[str, Any]:
    lead = "setting not in this report" if row["lead"] is None else f"{signed(row['lead'])}: {verdict(row['lead'])}"
    shown = {"name": name, "lead": lead, "place": _place(report, name), "seeds": row["seeds"]}
    return shown | {"y": spread(row, "y"), "x": spread(row, "x"), "cells": cells(report, name, columns)}


def _chosen(report: Report) -> str:
    chosen = report.chosen
    before, after = chosen.latency
    timed = "" if math.isnan(after) else f" Measured: {before:.3f} ms a batch before, {after:.3f} ms after."
    lost = "" if chosen.layers else " Its layers were not recorded."
    why = chosen.why[0].upper() + chosen.why[1:]
    return f"{why}; the run of seed {chosen.run['seed']}, {chosen.run['name']}.{timed}{lost}"


def _layer(row: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in row["blueprint"].items() if name != "kind"}
    counts = {name: f"{row[name]:,.0f}" for name in ("dense_macs", "macs", "dense_weights", "weights")}
    density = f"{row['weights'] / row['dense_weights']:.1%}" if row["dense_weights"] else ""
    words = printable(", ".join(f"{name}={value}" for name, value in arguments.items()))
    counts |= {name: "" if row.get(name) is None else f"{row[name]:.3f}" for name in ("dense_ms", "ms")}
    return {"layer": row["layer"], "kind": row["kind"], "density": density, "arguments": words} | counts


def _layer_figure(layers: list[dict[str, Any]]) -> Any:
    columns = {"before": "dense_macs", "after": "macs"}
    curves = {label: {row["layer"]: row[column] for row in layers} for label, column in columns.items()}
    return per_layer(curves, "Multiply-adds per layer", "MACs", log=True)


def _training_cost(name: str, row: Any) -> dict[str, str]:
    sums = {unit: "" if math.isnan(row[unit]) else si(row[unit]) for unit in UNITS}
    return {"name": name, "shared": f"{row['shared']:.0%}"} | sums


def _published(row: Any) -> dict[str, str]:
    hyperparameters = ", ".join(f"{name}={value}" for name, value in row["hyperparameters"].items())
    words = {name: row[name] for name in ("id", "label", "counting", "gain_reference", "mark", "note")}
    return words | {"hyperparameters": hyperparameters, "y": number(row["y"]), "x": number(row["x"])}
