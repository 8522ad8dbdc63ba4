"""Which published rows a report may be held against: same data set, same network, a cost that its axis can show."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from paredown import published
from paredown.config import CONF
from paredown.frontier.axes import Axis

if TYPE_CHECKING:
    import pandas

# metric: the published column that gives it, where the row has one
ACCURACIES = {
    "final/top1": "top1",
    "best/top1": "top1",
    "selected/top1": "top1",
    "final/top5": "top5",
    "gain/top1": "gain_top1",
    "gain/base_top1": "gain_top1",
    "gain/base_best_top1": "gain_top1",
}
COSTS = {"cost/speed_up": "speed_up", "cost/sparsity": "sparsity", "cost/compression": "compression"}
OF_DENSE = {"cost/macs": ("cost/dense_macs", "speed_up"), "cost/params": ("cost/dense_params", "compression")}
OURS = "conv_fc"


def overlay(runs: pandas.DataFrame, x: Axis, y: Axis) -> tuple[pandas.DataFrame, list[str]]:
    """The published rows that can be drawn beside `runs`, with `x`, `y` and `text` (for the hover) added, and in words
    which others of the same data set and model could not, and why."""
    rows = published.load()
    models = sorted(set(runs["model"]))
    same = rows[(rows["dataset"] == runs["dataset"].iloc[0]) & rows["model"].isin(models)]
    if same.empty:
        where = f"{runs['dataset'].iloc[0]} with {', '.join(models)}"
        return same.assign(x=0.0, y=0.0, text=""), [f"no published row is on {where}"]
    fits = same.apply(lambda row: _fits(row["network"], row["model"], runs), axis=1).astype(bool)
    why = _networks(same[~fits])
    placed = same[fits].copy()
    placed["x"] = [_cost(row, x, runs) for _, row in placed.iterrows()]
    placed["y"] = placed[ACCURACIES[y.name]] if y.name in ACCURACIES else float("nan")
    why += _without(placed, x, y)
    placed = placed.dropna(subset=["x", "y"])
    placed["text"] = [hover(row) for _, row in placed.iterrows()]
    return placed, why + _counted(placed, x) + ([_protocol(runs)] if len(placed) else [])


def hover(row: Any) -> str:
    """A published row in full, its doubts too."""
    knobs = ", ".join(f"{name}={value}" for name, value in row["knobs"].items())
    counted = f"counted by {row['counting']}" if row["counting"] else ""
    doubt = f"<b>{row['mark']}</b>: {row['note']}" if row["mark"] else row["note"]
    gain = f"gain against {row['gain_reference']}" if row["gain_reference"] else ""
    lines = [f"<b>{row['label']}</b>, published", row["id"], knobs, counted, gain, _wrapped(doubt)]
    return "<br>".join(line for line in lines if line)


def _wrapped(text: str) -> str:
    import textwrap

    return "<br>".join(textwrap.wrap(text, 60))


def _fits(network: dict[str, Any], model: str, runs: pandas.DataFrame) -> bool:
    """Whether some run of `model` has the very network that a paper used."""
    wanted = _settings(model) | {name: str(value) for name, value in network.items()}
    return any(_own(params, wanted) == wanted for params in runs.loc[runs["model"] == model, "params"])


def _own(params: dict[str, str], wanted: dict[str, str]) -> dict[str, str | None]:
    return {name: params.get(f"model.{name}") for name in wanted}


def _settings(model: str) -> dict[str, str]:
    """What conf/model says of the network, as MLflow's parameters are written."""
    import json

    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{model}.yaml"))
    shape = {name: value for name, value in values.items() if name not in ("weights", "weight_decay", "defaults")}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in shape.items()}


def _networks(others: pandas.DataFrame) -> list[str]:
    """One line per model and published network that no run has."""
    groups = Counter((row["model"], str(row["network"]), row["paper"]) for _, row in others.iterrows())
    lines = []
    for (model, network, paper), number in groups.items():
        settings = {} if network == "{}" else network.strip("{}").replace("'", "")
        theirs = f"{model} with {settings}" if settings else f"{model} as in conf/model/{model}.yaml"
        lines.append(f"rows of {paper} on another network than these runs, {theirs}: {number}")
    return lines


def _cost(row: Any, x: Axis, runs: pandas.DataFrame) -> float:
    if x.name in OF_DENSE:
        dense, ratio = OF_DENSE[x.name]
        own = runs.loc[runs["model"] == row["model"], dense] if dense in runs else runs["model"][:0]
        return float(own.median()) / row[ratio] if len(own) else float("nan")
    if x.name in COSTS:
        return float(row[COSTS[x.name]])
    if x.name == f"cost/speed_up_{row['counting']}":
        return float(row["speed_up"])
    return float("nan")


def _without(placed: pandas.DataFrame, x: Axis, y: Axis) -> list[str]:
    """How many rows lack the accuracy or the cost that is drawn."""
    lines = []
    for part, name in (("x", x.name), ("y", y.name)):
        lost = placed[placed[part].isna()]
        for paper, rows in lost.groupby("paper"):
            lines.append(f"rows of {paper} without {name}: {len(rows)}{_instead(rows, part)}")
    return lines


def _instead(rows: pandas.DataFrame, part: str) -> str:
    """The metric under which most of `rows` would be seen."""
    names = COSTS if part == "x" else ACCURACIES
    has = {metric: int(rows[column].notna().sum()) for metric, column in names.items()}
    best = max(has, key=lambda metric: has[metric])
    return f"; {has[best]} of them have {best}" if has[best] else ""


def _protocol(runs: pandas.DataFrame) -> str:
    """How these runs were trained, where a reader may think of the papers' protocols."""
    told = []
    for name, word in (("recipe.epochs", "epochs"), ("dataset.fraction", "of the images")):
        values = sorted({params.get(name, "?") for params in runs["params"]})
        told.append(f"{', '.join(values)} {word}")
    return f"the papers trained by their own protocols; these runs: {' on '.join(told)}"


def _counted(placed: pandas.DataFrame, x: Axis) -> list[str]:
    if not x.name.startswith("cost/") or x.name.startswith("cost/speed_up_") or placed.empty:
        return []
    others = Counter(rule for rule in placed["counting"] if rule not in (OURS, ""))
    return [f"costs counted by {rule}, where ours are by {OURS}: {number} rows" for rule, number in others.items()]
