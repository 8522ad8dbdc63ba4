"""Figures of SVD-NAS: theta over the epochs of the search, and the design as the paper draws it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.core.plan import Outcome
from paredown.frontier.plots import COLOURS, lines, tiles
from paredown.methods.families import over_epochs
from paredown.methods.search.svd_nas.candidates import SPACE

Points = Sequence[Sequence[Any]]
DENSE = "#BBBBBB"
HATCHES = dict(zip(SPACE, ("", "/", "."), strict=True))  # distinguish the factorisations without colour
SEARCHES = {"space": ("search", "first branch"), "second_space": ("search_second", "second branch")}


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return all figures by name."""
    done = {outcome.stage.name: outcome for outcome in outcomes}
    searches = {
        label: (_spaces(done[space]), done[search].history)
        for space, (search, label) in SEARCHES.items()
        if search in done
    }
    entropies: dict[str, dict[int, float]] = {}
    curves: dict[str, dict[int, float]] = {}
    for label, (_, rows) in searches.items():
        entropies |= over_epochs(rows, {label: "search/entropy"})
        macs = {"expected": "search/expected_macs", "largest theta": "search/choice_macs"}
        curves |= over_epochs(rows, {f"{label}, {what}": name for what, name in macs.items()})
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
    """Return one column per layer, as high as the share of its MACs that stays: the branches' factorisations by colour,
    groups g and rank r as text (after the paper's Fig. S1); `notes` are those of the edit `build`."""
    from plotly import graph_objects

    plot = graph_objects.Figure()
    designs, shares = notes["designs"], notes["shares"]
    shown: set[str] = set()
    for index in (0, 1):
        for number, factorisation in enumerate(SPACE):
            branches = {name: design[index] for name, design in designs.items() if len(design) > index}
            own = [name for name, branch in branches.items() if branch["factorisation"] == factorisation]
            plot.add_bar(
                x=own,
                y=[shares[name][index] for name in own],
                text=[f"g={designs[name][index]['groups']}<br>r={designs[name][index]['rank']}" for name in own],
                name=factorisation,
                legendgroup=factorisation,
                showlegend=bool(own) and factorisation not in shown,
                textposition="inside",
                insidetextanchor="middle",
                marker={"color": COLOURS[number], "line": {"color": "white", "width": 1}},
                marker_pattern={"shape": HATCHES[factorisation], "fgopacity": 0.35, "size": 6},
                textfont={"size": 12, "color": "white", "weight": "bold"},
            )
            shown |= {factorisation} if own else set()
    left = [name for name in shares if name not in designs]
    plot.add_bar(x=left, y=[1.0] * len(left), name="as it was", marker={"color": DENSE}, showlegend=bool(left))
    plot.update_layout(title="The design: factorisations, groups g and rank r in each", template="plotly_white")
    plot.update_layout(barmode="stack", yaxis_title="MACs left of the layer's", bargap=0.1, uniformtext_minsize=8)
    plot.update_xaxes(categoryorder="array", categoryarray=list(shares))
    return plot


def choices(spaces: Mapping[str, Points], rows: Sequence[Mapping[str, float]], title: str) -> Any:
    """Return layers against epochs, each cell the share of the layer's MACs that its largest theta leaves; the
    candidate shows on hover."""
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
    return {name: entry["points"] for name, entry in blueprint.items() if entry["kind"] == "mixed_op"}


def _label(point: Sequence[Any]) -> str:
    return "as it was" if point[2] is None else f"{point[0]}, g={point[1]}, r={point[2]}"
