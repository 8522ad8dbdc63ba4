"""Published rows that a report is comparable with: same data set, same network, and a value on both axes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from paredown import published
from paredown.core.config import CONF
from paredown.frontier.axes import Axis
from paredown.published.quantities import differing

if TYPE_CHECKING:
    import pandas

# metric: published column of the same quantity
ACCURACIES = {
    "final/top1": "top1",
    "best/top1": "top1",
    "selected/top1": "top1",
    "final/top5": "top5",
    "best/top5": "top5",
    "gain/top1": "gain_top1",
    "gain/best_top1": "gain_top1",
    "gain/base_top1": "gain_top1",
    "gain/base_best_top1": "gain_top1",
    "gain/top5": "gain_top5",
    "gain/best_top5": "gain_top5",
    "gain/base_top5": "gain_top5",
    "gain/base_best_top5": "gain_top5",
}
COSTS = {"cost/speed_up": "speed_up", "cost/sparsity": "sparsity", "cost/compression": "compression"}
OF_DENSE = {"cost/macs": ("cost/dense_macs", "speed_up"), "cost/params": ("cost/dense_params", "compression")}
OURS = "conv_fc"


def overlay(runs: pandas.DataFrame, x: Axis, y: Axis) -> tuple[pandas.DataFrame, list[str]]:
    """Return the published rows that can be drawn beside `runs`, with the columns `x`, `y` and `text` (shown on hover),
    and lines that say which other rows of the same data set and models cannot be drawn, and caveats."""
    rows = published.load()
    models = sorted(set(runs["model"]))
    same = rows[(rows["dataset"] == runs["dataset"].iloc[0]) & rows["model"].isin(models)]
    if same.empty:
        where = f"{runs['dataset'].iloc[0]} with {', '.join(models)}"
        return same.assign(x=0.0, y=0.0, text=""), [f"no published row is on {where}"]
    alike = {name: _alike(row["network"], row["model"], runs) for name, row in same.iterrows()}
    fits = same.index.map(lambda name: not alike[name].empty).astype(bool)
    why = _networks(same[~fits])
    placed = same[fits].copy()
    placed["x"] = [_cost(row, x, alike[name]) for name, row in placed.iterrows()]
    placed["y"] = placed[ACCURACIES[y.name]] if y.name in ACCURACIES else float("nan")
    why += _without(placed, x, y)
    placed = placed.dropna(subset=["x", "y"])
    placed["text"] = [hover(row) for _, row in placed.iterrows()]
    return placed, why + _counted(placed, x) + _measured(placed, y) + ([_protocol(runs)] if len(placed) else [])


def hover(row: Any) -> str:
    """Return a published row, with its mark and note, as HTML lines."""
    hyperparameters = ", ".join(f"{name}={value}" for name, value in row["hyperparameters"].items())
    counted = f"counted by {row['counting']}" if row["counting"] else ""
    doubt = f"<b>{row['mark']}</b>: {row['note']}" if row["mark"] else row["note"]
    gain = f"gain against {row['gain_reference']}" if row["gain_reference"] else ""
    lines = [f"<b>{row['label']}</b>, published", row["id"], hyperparameters, counted, gain, _wrapped(doubt)]
    return "<br>".join(line for line in lines if line)


def _wrapped(text: str) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(text, 60))


def _alike(network: dict[str, Any], model: str, runs: pandas.DataFrame) -> pandas.DataFrame:
    """Return the runs of `model` that have the network that the paper used."""
    wanted = _settings(model) | {name: str(value) for name, value in network.items()}
    of_model = runs[runs["model"] == model]
    return of_model[[{name: params.get(f"model.{name}") for name in wanted} == wanted for params in of_model["params"]]]


UNPRINTED = ("weights", "head", "weight_decay", "defaults")  # settings of a model that make no other network


def _settings(model: str) -> dict[str, str]:
    """Load the network's arguments from conf/model, formatted like MLflow's parameters."""
    import json

    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{model}.yaml"))
    shape = {name: value for name, value in values.items() if name not in UNPRINTED}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in shape.items()}


def _networks(others: pandas.DataFrame) -> list[str]:
    """Return a line per model and published network that no run has."""
    groups = Counter((row["model"], str(row["network"]), row["paper"]) for _, row in others.iterrows())
    lines = []
    for (model, network, paper), number in groups.items():
        settings = {} if network == "{}" else network.strip("{}").replace("'", "")
        theirs = f"{model} with {settings}" if settings else f"{model} as in conf/model/{model}.yaml"
        lines.append(f"rows of {paper} on another network than these runs, {theirs}: {number}")
    return lines


def _cost(row: Any, x: Axis, alike: pandas.DataFrame) -> float:
    """Return the value of a published row on `x`, of a cost by the dense network of the runs `alike`, which have its
    network: others of the model may be of another width."""
    if x.name in OF_DENSE:
        dense, ratio = OF_DENSE[x.name]
        return float(alike[dense].median()) / row[ratio] if dense in alike else float("nan")
    if x.name in COSTS:
        return float(row[COSTS[x.name]])
    if x.name == f"cost/speed_up_{row['counting']}":
        return float(row["speed_up"])
    return float("nan")


def _without(placed: pandas.DataFrame, x: Axis, y: Axis) -> list[str]:
    """Count, by paper, the rows without a value on one of the axes."""
    lines = []
    for part, name in (("x", x.name), ("y", y.name)):
        lost = placed[placed[part].isna()]
        for paper, rows in lost.groupby("paper"):
            lines.append(f"rows of {paper} without {name}: {len(rows)}{_instead(rows, part)}")
    return lines


def _instead(rows: pandas.DataFrame, part: str) -> str:
    """Name the metric that most of `rows` do have a value for."""
    names = COSTS if part == "x" else ACCURACIES
    has = {metric: int(rows[column].notna().sum()) for metric, column in names.items()}
    best = max(has, key=lambda metric: has[metric])
    return f"; {has[best]} of them have {best}" if has[best] else ""


def _protocol(runs: pandas.DataFrame) -> str:
    """Describe the training protocols of `runs`, which are seldom those of the papers."""
    parts = []
    for name, unit in (("recipe.epochs", "epochs"), ("dataset.fraction", "of the images")):
        values = sorted({params.get(name, "?") for params in runs["params"]})
        parts.append(f"{', '.join(values)} {unit}")
    return f"the papers trained by their own protocols; these runs: {' on '.join(parts)}"


def _measured(placed: pandas.DataFrame, y: Axis) -> list[str]:
    """Say of how many rows the accuracy or the gain is another quantity than the one drawn: of the best epoch instead
    of the last, or against another network."""
    if y.name not in ACCURACIES:
        return []
    rows = [dict(row) for _, row in placed.iterrows()]
    found = differing(rows, ACCURACIES[y.name], y.name)
    return [f"drawn by {y.name}, but another quantity, {what}: {number} rows" for what, number in found.items()]


def _counted(placed: pandas.DataFrame, x: Axis) -> list[str]:
    if not x.name.startswith("cost/") or x.name.startswith("cost/speed_up_") or placed.empty:
        return []
    others = Counter(rule for rule in placed["counting"] if rule not in (OURS, ""))
    return [f"costs counted by {rule}, where ours are by {OURS}: {number} rows" for rule, number in others.items()]
