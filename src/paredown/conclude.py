"""What is measured and drawn of a trained network: accuracy, cost and latency of its deployed form."""

from __future__ import annotations

import copy
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from torch import nn

from paredown import __version__
from paredown.control import Control
from paredown.correlation import layer_correlations
from paredown.cost import compare, count
from paredown.cost.latency import device_name, use_threads
from paredown.cost.latency import measure as measure_latency
from paredown.cost.rules import RULES, macs_under, speed_up_under
from paredown.execution import Execution, optimise
from paredown.experiment import Experiment, Step
from paredown.figures import per_layer
from paredown.plan import Edit, Network
from paredown.surgery.deploy import deploy, prove_equal
from paredown.training.evaluate import evaluate

SEARCH = 5  # deploy=auto compares whole networks for this many times latency.seconds
FP32_TOLERANCE = 1e-4  # what ships was rounded to fp32 when its factors or masks were folded in
Row = dict[str, float]


def optimised(experiment: Experiment, network: Network) -> Execution | None:
    """The fastest exact form of the trained `network` under the settings of `latency`; None unless deploy=auto.
    Raises DeployError where a form computes something else."""
    if experiment.config["deploy"] != "auto":
        return None
    settings = experiment.config["latency"]
    with use_threads(settings["threads"]):
        return optimise(network, settings["batch"], experiment.device, seconds=SEARCH * settings["seconds"])


def measure(experiment: Experiment, network: Network, history: list[Row], execution: Execution | None = None) -> Row:
    """Every final metric of the trained `network`; `history` holds the rows of its last fit. `execution` is timed in
    the place of the plain deployed network.

    Raises DeployError where the deployed network computes something else, CostError where two counts disagree.
    """
    device = experiment.device
    shape, dense = network.input_shape, deploy(experiment.dense().module)
    exact, deployed = copy.deepcopy(network.module).double(), deploy(network.module)
    prove_equal(exact, deploy(exact), shape)
    prove_equal(network.module, deployed, shape, tolerance=FP32_TOLERANCE)
    metrics = compare(count(network.module, shape), experiment.dense_cost)
    metrics |= _speed_ups(network.module, dense, shape)
    loader = experiment.data.eval_loader("test", experiment.machine.eval_batch_size, device)
    metrics |= {f"final/{name}": value for name, value in evaluate(deployed, loader, device).items()}
    metrics |= _best(history, metrics, "val" in experiment.data.eval_splits) | _against_dense(experiment, metrics)
    settings = experiment.config["latency"]
    timed = measure_latency(
        execution.module if execution else deployed,
        dense,
        shape,
        device=device,
        **settings,
        laid_out=execution is not None,
    )
    return metrics | timed.metrics() | experiment.method.metrics(experiment.outcomes())


def _speed_ups(module: nn.Module, dense: nn.Module, shape: tuple[int, int, int]) -> Row:
    """Under each rule but ours, already there; none under one that counts nothing, as `conv` without convolutions."""
    counted = [r for r in RULES if r != "conv_fc" and macs_under(r, module, shape) and macs_under(r, dense, shape)]
    return {f"cost/speed_up_{rule}": speed_up_under(rule, module, dense, shape) for rule in counted}


def _best(history: list[Row], metrics: Row, held_out: bool) -> Row:
    """`best/top1`: the best test epoch, what most papers print; `selected/top1`: the test accuracy of the epoch that
    was best on the validation images, what a user without a test set would get. After an edit there is no choice of
    epochs (`history` is empty)."""
    best = {"best/top1": max([metrics["final/top1"], *(row["test/top1"] for row in history)])}
    if held_out:
        by_validation = max(history, key=lambda row: row["val/top1"], default={"test/top1": metrics["final/top1"]})
        best["selected/top1"] = by_validation["test/top1"]
    return best


def _against_dense(experiment: Experiment, metrics: Row) -> Row:
    own = experiment.steps[-1].key
    if experiment.dense_key == own or not experiment.store.has(experiment.dense_key):
        return {}
    rows = experiment.store.record(experiment.dense_key).history
    dense = rows[-1]["test/top1"]
    return {"dense/top1": dense, "gain/top1": metrics["final/top1"] - dense}


def price(experiment: Experiment) -> list[dict[str, Any]]:
    """What each stage of the plan took, whoever ran it: `key`, `epochs`, `seconds` and training `macs`: images seen x
    MACs of the network as that stage left it x 3, since a backward pass costs about two forward passes. A stage whose
    state was deleted after a later one was made is left out."""
    return [_spent(experiment, step) for step in experiment.steps if experiment.store.has(step.key)]


def total(experiment: Experiment, spent: list[dict[str, Any]]) -> Row:
    """The sums over `spent` as metrics; none where a stage is missing from it."""
    if len(spent) < len(experiment.steps):
        return {}
    return {f"price/{name}": sum(stage[name] for stage in spent) for name in ("epochs", "seconds", "macs")}


def _spent(experiment: Experiment, step: Step) -> dict[str, Any]:
    record = experiment.store.record(step.key)
    if isinstance(step.stage, Edit):
        return {"key": step.key, "epochs": 0, "seconds": record.seconds, "macs": 0}
    epochs = len(record.history)
    network = experiment.store.read(step.key)
    # a hook that feeds other images says how many
    images = sum(row.get("images", step.data.sizes["train"]) for row in record.history)
    seconds = sum(row["seconds"] for row in record.history)  # of every process that had a part in it
    macs = 3 * images * count(network.module, network.input_shape).macs
    return {"key": step.key, "epochs": epochs, "seconds": seconds, "macs": macs}


def layers(experiment: Experiment, network: Network) -> list[dict[str, Any]]:
    """Each conv and linear layer before and after: `dense_macs`, `macs`, `dense_weights`, `weights`, its kind,
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
    """The head of the run's page in MLflow, in Markdown."""
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
    control = f"The control *{experiment.method.kind}* of " if isinstance(experiment.method, Control) else ""
    head = f"{control}**{names['method']}**{target} on {names['model']}, {names['dataset']}, seed {experiment.seed}"
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    debug = "\n\nA debug run: its numbers mean nothing." if names["debug"] != "None" else ""
    return f"{head}\n\n{table}{debug}\n\nFigures and the network (`state/`) are among the artifacts."


def figures(experiment: Experiment, network: Network) -> dict[str, Any]:
    """Plotly figures by name: the method's own; MACs per layer before and after; filter correlation per layer (SSC
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


def tags(experiment: Experiment) -> dict[str, str]:
    """What a run is found by."""
    keys = {f"stage/{index}_{step.stage.name}": step.key for index, step in enumerate(experiment.steps)}
    more = {
        "seed": str(experiment.seed),
        "target": str(experiment.target) if experiment.target else "none",
        "device": device_name(experiment.device),
        "code": _code_version(),
    }
    if isinstance(experiment.method, Control):
        more |= {"control": experiment.method.kind, "control/of": experiment.method.name}
    if experiment.config["reproduce"]:
        more["reproduce"] = experiment.config["reproduce"]
    return experiment.names | more | keys


def _code_version() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # not a checkout
        return __version__
    return f"{__version__}+{found}"


def environment() -> str:
    """The installed packages, one `name==version` a line."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}))
