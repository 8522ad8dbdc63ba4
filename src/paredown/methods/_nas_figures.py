"""Figures of a search for an architecture: what theta did over the epochs, and the design as the paper draws it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.figures import COLOURS, lines, tiles
from paredown.layers._families import FAMILIES
from paredown.plan import Outcome

Points = Sequence[Sequence[Any]]
DENSE = "#BBBBBB"
HATCHES = dict(zip(FAMILIES, ("", "/", "."), strict=True))  # the families told apart without colour
SEARCHES = {"space": ("search", "first branch"), "second_space": ("search_second", "second branch")}


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All of them, by name."""
    done = {outcome.stage.name: outcome for outcome in outcomes}
    searches = {
        label: (_spaces(done[space]), done[search].history)
        for space, (search, label) in SEARCHES.items()
        if search in done
    }
    curves: dict[str, dict[int, float]] = {}
    entropies = {}
    for label, (_, rows) in searches.items():
        entropies[label] = {epoch: row["search/entropy"] for epoch, row in enumerate(rows, 1)}
        for name, what in (("expected", "expected"), ("choice", "largest theta")):
            curves[f"{label}, {what}"] = {epoch: row[f"search/{name}_macs"] for epoch, row in enumerate(rows, 1)}
    found = {"design": schematic(done["build"].notes)}
    if searches:
        found["theta_entropy"] = lines(entropies, "Entropy of theta, mean over layers (1: uniform)", "epoch", "entropy")
        found["search_macs"] = lines(curves, "Multiply-adds of the targeted layers", "epoch", "MACs")
    for label, (spaces, rows) in searches.items():
        found[f"choice_{label.replace(' ', '_')}"] = choices(spaces, rows, f"Largest theta after each epoch, {label}")
    if "distil" in done:
        rows = done["distil"].history
        losses = {epoch: row.get("train/objective", row["train/loss"]) for epoch, row in enumerate(rows, 1)}
        found["distillation"] = lines({"loss": losses}, "Loss of the distillation", "epoch", "loss", "y")
    if "synthesise" in done:
        notes = done["synthesise"].notes
        found["synthetic_images"] = tiles(_sample(notes), "Some of the synthetic images", zoom=80)
        steps = dict(enumerate(notes["losses"], 1))
        found["synthetic_loss"] = lines(
            {"first batch": steps}, "Distance to the batch norms' statistics", "step", "l_bn", "y"
        )
    return found


def _sample(notes: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(notes["pixels"]), "<f4").reshape(notes["shape"])


def schematic(notes: Mapping[str, Any]) -> Any:
    """One column per layer, as high as the share of its MACs that stays: the branches' families by colour, groups g and
    rank r written in (after the paper's Fig. S1); `notes` are those of the edit `build`."""
    from plotly import graph_objects

    plot = graph_objects.Figure()
    designs, shares = notes["designs"], notes["shares"]
    shown: set[str] = set()
    for index in (0, 1):
        for number, family in enumerate(FAMILIES):
            own = [n for n, design in designs.items() if len(design) > index and design[index]["family"] == family]
            plot.add_bar(
                x=own,
                y=[shares[name][index] for name in own],
                text=[f"g={designs[name][index]['groups']}<br>r={designs[name][index]['rank']}" for name in own],
                name=family,
                legendgroup=family,
                showlegend=bool(own) and family not in shown,
                textposition="inside",
                insidetextanchor="middle",
                marker={"color": COLOURS[number], "line": {"color": "white", "width": 1}},
                marker_pattern={"shape": HATCHES[family], "fgopacity": 0.35, "size": 6},
                textfont={"size": 12, "color": "white", "weight": "bold"},
            )
            shown |= {family} if own else set()
    left = [name for name in shares if name not in designs]
    plot.add_bar(x=left, y=[1.0] * len(left), name="as it was", marker={"color": DENSE}, showlegend=bool(left))
    plot.update_layout(title="The design: families, groups g and rank r in each", template="plotly_white")
    plot.update_layout(barmode="stack", yaxis_title="MACs left of the layer's", bargap=0.1, uniformtext_minsize=8)
    plot.update_xaxes(categoryorder="array", categoryarray=list(shares))
    return plot


def choices(spaces: Mapping[str, Points], rows: Sequence[Mapping[str, float]], title: str) -> Any:
    """Layers against epochs, each cell the share of the layer's MACs that its largest theta leaves; pointed at, the
    candidate."""
    from plotly import graph_objects

    shares, labels = [], []
    for name, points in spaces.items():
        chosen = [points[int(row[f"choice/{name}"])] for row in rows]
        shares.append([point[3] / points[-1][3] for point in chosen])
        labels.append([_label(point) for point in chosen])
    epochs = list(range(1, len(rows) + 1))
    heat = graph_objects.Heatmap(
        x=epochs, y=list(spaces), z=shares, text=labels, colorscale="Cividis", zmin=0, zmax=1,
        hovertemplate="%{y}, epoch %{x}: %{text}<extra></extra>", colorbar={"title": "MACs left"},
    )  # fmt: skip
    plot = graph_objects.Figure(heat)
    plot.update_layout(title=title, xaxis_title="epoch", template="plotly_white", height=200 + 24 * len(spaces))
    plot.update_yaxes(autorange="reversed", tickmode="linear", automargin=True)
    return plot


def _spaces(opened: Outcome) -> dict[str, Points]:
    blueprint = opened.network().blueprint
    return {name: entry["points"] for name, entry in blueprint.items() if entry["kind"] == "searched"}


def _label(point: Sequence[Any]) -> str:
    return "as it was" if point[2] is None else f"{point[0]}, g={point[1]}, r={point[2]}"
