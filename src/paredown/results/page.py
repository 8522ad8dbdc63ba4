"""The page of an experiment's run: its description, figures and table of layers."""

from __future__ import annotations

from typing import Any

from paredown.analysis.correlation import layer_correlations
from paredown.core.errors import named_reason
from paredown.core.network import Network
from paredown.cost import count
from paredown.experiment.controls import Control
from paredown.experiment.experiment import Experiment
from paredown.frontier.plots import per_layer

Row = dict[str, float]


def layers(experiment: Experiment, network: Network) -> list[dict[str, Any]]:
    """Tabulate each conv and linear layer before and after: `dense_macs`, `macs`, `dense_weights`, `weights`, its kind,
    and where it was rewritten the blueprint's arguments (rank, spacing ...)."""
    after = {layer.name: layer for layer in count(network.module, network.input_shape).layers}
    rows = []
    for dense in experiment.dense_cost.layers:
        own = after.get(dense.name)  # None: the method took the whole layer out
        row = {"layer": dense.name, "kind": own.kind if own else "removed", "dense_macs": dense.macs}
        row |= {"macs": own.macs if own else 0, "dense_weights": dense.weights, "weights": own.weights if own else 0}
        rows.append(row | {"blueprint": network.blueprint.get(dense.name, {})})
    return rows


def description(experiment: Experiment, metrics: Row) -> str:
    """Write the head of the run's page in MLflow, in Markdown."""
    target = f" at {experiment.target}" if experiment.target else ""
    names = experiment.names
    gain = f" ({metrics['gain/top1']:+.2f} against dense)" if "gain/top1" in metrics else ""
    rows = {
        "top-1, last epoch": f"{metrics['final/top1']:.2f} %{gain}",
        "top-1, best test epoch": f"{metrics['best/top1']:.2f} %",
        "MACs": f"{metrics['cost/macs']:,.0f}, {metrics['cost/speed_up']:.2f}x fewer",
        "parameters": f"{metrics['cost/params']:,.0f}, {metrics['cost/compression']:.2f}x fewer",
        "sparsity": f"{metrics['cost/sparsity']:.2%}",
        "measured latency": f"{metrics['latency/ms']:.3f} ms a batch, {metrics['latency/speed_up']:.2f}x as fast",
    }
    if experiment.config["model"].get("head") == "new":
        rows["classifier"] = "new: none of the weights' (model.head=new)"
    control = f"The control *{experiment.method.kind}* of " if isinstance(experiment.method, Control) else ""
    head = f"{control}**{names['method']}**{target} on {names['model']}, {names['dataset']}, seed {experiment.seed}"
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    debug = "\n\nA debug run: its numbers mean nothing." if names["debug"] != "None" else ""
    return f"{head}\n\n{table}{debug}\n\nFigures and the network (`state/`) are among the artifacts."


def last_attempt(error: BaseException) -> str:
    """Write the head of the page of a run that `error` ended, in Markdown; a finished run's page has no such line."""
    if isinstance(error, KeyboardInterrupt):
        return "The last attempt was interrupted; the same command goes on where it stopped."
    said = named_reason(error).replace("`", "'")
    return f"**The last attempt failed.** `{said}`\n\nOnce that is mended, the same command goes on where it stopped."


def figures(experiment: Experiment, network: Network) -> dict[str, Any]:
    """Draw Plotly figures, by name: the method's; MACs per layer before and after; filter correlation per layer (SSC
    paper, Fig. 3), with the dense network beside it where the store has one trained by the same recipe."""
    costs = {"dense": experiment.dense_cost, "deployed": count(network.module, network.input_shape)}
    macs = {label: {layer.name: layer.macs for layer in cost.layers} for label, cost in costs.items()}
    curves = {experiment.config["control"] or experiment.names["method"]: layer_correlations(network.module)}
    if experiment.dense_key != experiment.steps[-1].key and experiment.store.has(experiment.dense_key):
        curves["dense"] = layer_correlations(experiment.store.read(experiment.dense_key).module)
    return experiment.method.figures(experiment.outcomes()) | {
        "filter_correlation": per_layer(curves, "Filter correlation (low: little redundancy)", "mean |correlation|"),
        "macs_per_layer": per_layer(macs, "Multiply-adds per layer", "MACs", log=True),
    }
