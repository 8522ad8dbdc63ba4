"""The report as one HTML file that opens without a network."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from paredown.figures import per_layer
from paredown.frontier import figure
from paredown.report.build import Report
from paredown.report.controls import KINDS, sentences, signed, verdict
from paredown.report.runs import LOCAL_SERVER
from paredown.report.words import number, share, short, spread

SHOWN = 5  # settings named in a sentence
TEMPLATE = Path(__file__).parent / "page.html"
# shown beside the two axes where they are recorded: metric, head of the column
COLUMNS = {
    "final/top1": "top-1 (%)",
    "gain/top1": "gain (points)",
    "cost/macs": "MACs",
    "cost/speed_up": "fewer MACs",
    "cost/params": "parameters",
    "cost/sparsity": "sparsity",
    "latency/speed_up": "measured speed-up",
}


def render(report: Report) -> str:
    """The whole page: front, table, layers, price, published rows, what is missing."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(TEMPLATE.read_text())
    points, beside = report.labelled
    drawn = figure.draw(points, report.published, report.x, report.y, report.bounds, beside)
    layers = report.chosen.layers
    columns, prices = extra_columns(report), report.price.settings
    return template.render(
        report=report,
        when=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        plotly=Markup(f"<script>{get_plotlyjs()}</script>"),  # nothing of the user's is in it
        figure=Markup(figure.part(drawn)),
        debug=not report.runs["debug"].isin(["None", ""]).all(),
        answers=answers(report),
        local=report.points["link"].iloc[0].startswith(LOCAL_SERVER),
        columns=list(columns.values()),
        settings=[_setting(report, str(name), row, list(columns)) for name, row in report.points.iterrows()],
        controls=[_control(report, str(name), row, list(columns)) for name, row in report.controls.iterrows()],
        kinds=KINDS,
        chosen_words=_chosen(report),
        layers=[_layer(row) for row in layers or []],
        layer_figure=Markup(figure.part(_layer_figure(layers))) if layers else "",
        bench=report.chosen.bench,
        price_words=price_words(report),
        prices=[_price(str(name), prices.loc[name]) for name in report.points.index if name in prices.index],
        published=[_published(row) for _, row in report.published.iterrows()],
    )


def answers(report: Report) -> list[str]:
    """What a reader wants to know first, in sentences."""
    lines = []
    budget = " and ".join(map(str, report.bounds))
    if report.best:
        setting, alike = report.best
        row = report.points.loc[setting]
        more = f" and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
        told = f"; not told apart from it: {', '.join(alike[:SHOWN])}{more}" if alike else ""
        lines.append(f"Best under {budget}: {setting}, {report.y.name} {spread(row, 'y')}{told}.")
    elif report.bounds:
        lines.append(f"No setting keeps {budget}.")
    for setting in report.points.index[report.points["knee"]]:
        row = report.points.loc[setting]
        lines.append(f"Knee: {setting}, {report.y.name} {spread(row, 'y')} at {report.x.name} {spread(row, 'x')}.")
    states = report.points["state"].value_counts()
    counted = ", ".join(f"{number_} {state}" for state, number_ in states.items())
    lines.append(f"Of {len(report.points)} settings: {counted}.")
    lines += sentences(report.controls, report.y)
    if report.areas:
        areas = ", ".join(f"{name} {share(area)}" for name, area in report.areas.items())
        corner = f"{report.x.name} {number(report.corner[0])}, {report.y.name} {number(report.corner[1])}"
        lines.append(f"Dominated area, as a share of the box from ({corner}) to the best run in each: {areas}.")
    return lines


def extra_columns(report: Report) -> dict[str, str]:
    """The metrics of COLUMNS that are recorded and not an axis, and the heads of their columns."""
    drawn = (report.x.name, report.y.name)
    return {name: head for name, head in COLUMNS.items() if name in report.runs and name not in drawn}


def cells(report: Report, setting: str, columns: list[str]) -> list[str]:
    """The means of `columns` over the seeds of `setting`, '' where none has it."""
    means = report.every.loc[report.every["setting"] == setting, columns].mean()
    return ["" if math.isnan(value) else number(value) for value in means]


def price_words(report: Report) -> str:
    """What all of it took, shared stages once."""
    price = report.price
    if not price.stages:
        return "The runs do not tell what their stages took."
    total, saved = ({kind: short(value) for kind, value in part.items()} for part in (price.total, price.saved))
    sums = f"{total['epochs']} epochs, {total['seconds']} s, {total['macs']} MACs"
    whole = f"All of it: {price.stages} distinct stages, {sums}"
    if not price.reused:
        return f"{whole}. No stage was shared."
    spared = f"{saved['epochs']} epochs, {saved['seconds']} s and {saved['macs']} MACs"
    return f"{whole}. Shared stages are counted once: {price.reused} times one was used again, which spared {spared}."


def _setting(report: Report, name: str, row: Any, columns: list[str]) -> dict[str, Any]:
    shown = {"name": name, "y": spread(row, "y"), "x": spread(row, "x"), "cells": cells(report, name, columns)}
    return (
        shown
        | {key: row[key] for key in ("link", "seeds", "state", "front")}
        | {"chosen": name == report.chosen.setting}
    )


def _control(report: Report, name: str, row: Any, columns: list[str]) -> dict[str, Any]:
    lead = "its setting is not here" if row["lead"] is None else f"{signed(row['lead'])}: {verdict(row['lead'])}"
    shown = {"name": name, "lead": lead, "link": row["link"], "seeds": row["seeds"]}
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
    counts = {name: f"{row[name]:,}" for name in ("dense_macs", "macs", "dense_weights", "weights")}
    density = f"{row['weights'] / row['dense_weights']:.1%}" if row["dense_weights"] else ""
    words = ", ".join(f"{name}={value}" for name, value in arguments.items())
    counts |= {name: "" if row.get(name) is None else f"{row[name]:.3f}" for name in ("dense_ms", "ms")}
    kind = row["blueprint"].get("kind", row["kind"])
    return {"layer": row["layer"], "kind": kind, "density": density, "arguments": words} | counts


def _layer_figure(layers: list[dict[str, Any]]) -> Any:
    columns = {"before": "dense_macs", "after": "macs"}
    curves = {label: {row["layer"]: row[column] for row in layers} for label, column in columns.items()}
    return per_layer(curves, "Multiply-adds per layer", "MACs", log=True)


def _price(name: str, row: Any) -> dict[str, str]:
    sums = {kind: short(row[kind]) for kind in ("epochs", "seconds", "macs")}
    return {"name": name, "shared": f"{row['shared']:.0%}"} | sums


def _published(row: Any) -> dict[str, str]:
    knobs = ", ".join(f"{name}={value}" for name, value in row["knobs"].items())
    words = {name: row[name] for name in ("id", "label", "counting", "gain_reference", "mark", "note")}
    return words | {"knobs": knobs, "y": number(row["y"]), "x": number(row["x"])}
