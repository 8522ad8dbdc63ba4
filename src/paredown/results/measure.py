"""The measurement of a trained network: accuracy, cost and latency of its deployed form."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

from paredown.core.deploy import deploy, prove_equal
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.core.target_metrics import ASKED, REACHED, TOLERANCE, missed_target
from paredown.cost import compare, count
from paredown.cost.conventions import speed_ups
from paredown.cost.latency import Latency, use_threads
from paredown.cost.latency import measure as measure_latency
from paredown.experiment.experiment import Experiment
from paredown.runtime.choices import Choices
from paredown.runtime.rivals import DENSE, DEPLOYED, candidates
from paredown.store.packing import packed_bytes

SEARCH = 5  # deploy=auto searches for the form of each network for this many times latency.seconds
TOPS = ("top1", "top5")
FP32_TOLERANCE = 1e-4  # what ships was rounded to fp32 when its factors or masks were folded in
Row = dict[str, float]
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Speed:
    """How fast the deployed network is beside the dense one, and the `choices` by which its fastest form is rebuilt."""

    latency: Latency
    choices: Choices


def compared(experiment: Experiment, network: Network) -> Speed:
    """Time the trained `network` beside the dense one, both in the form that one search finds for each: with
    deploy=auto the fastest exact one, else the plain layers in channels-last. Raise DeployError if a form computes
    something else."""
    settings = experiment.latency
    search = SEARCH * settings.seconds if experiment.config["deploy"] == "auto" else None
    with use_threads(settings.threads):
        (deployed,), (dense,) = (
            candidates(name, one, settings.batch, experiment.device, "fp32", search, ["NHWC"])
            for name, one in ((DEPLOYED, network), (DENSE, experiment.dense()))
        )
    timed = measure_latency((deployed.module, deployed.images), (dense.module, dense.images), settings)
    return Speed(timed, deployed.choices)


def measure(experiment: Experiment, network: Network, history: list[Row], speed: Speed) -> Row:
    """Compute the final metrics of the trained `network`, whose `speed` is measured; `history` holds the rows of its
    last fit. Raise DeployError if the deployed network computes something else, CostError if two counts disagree.
    """
    shape, dense = network.input_shape, deploy(experiment.dense().module)
    exact, deployed = copy.deepcopy(network.module).double(), deploy(network.module)
    prove_equal(exact, deploy(exact), shape)
    prove_equal(network.module, deployed, shape, tolerance=FP32_TOLERANCE)
    metrics = compare(count(network.module, shape), experiment.dense_cost)
    others = speed_ups(network.module, dense, shape)
    metrics |= {f"cost/speed_up_{rule}": others[rule] for rule in others if rule != "conv_fc"}  # cost/speed_up itself
    metrics |= {
        "cost/bytes": float(packed_bytes(deployed.cpu().state_dict())),
        "cost/dense_bytes": float(packed_bytes(dense.cpu().state_dict())),
    }
    metrics |= {f"final/{name}": value for name, value in experiment.accuracy(experiment.steps[-1].key).items()}
    metrics |= _best(history, metrics, "val" in experiment.data.eval_splits)
    metrics |= speed.latency.metrics()
    metrics |= _against_dense(experiment, metrics) | _against_target(experiment.target, metrics)
    return metrics | experiment.method.metrics(experiment.outcomes())


def _against_target(target: Target | None, metrics: Row) -> Row:
    """Set what the user asked for beside what was reached, in the quantity of the target."""
    if target is None:
        return {}
    reached = metrics[target.metric]
    found = {ASKED: target.value, REACHED: reached, TOLERANCE: target.tolerance}
    if missed_target(found):
        log.warning("%s was asked for, %s=%.4g was reached", target, target.quantity, reached)
    return found


def _best(history: list[Row], metrics: Row, held_out: bool) -> Row:
    """Return `best/top1` and `best/top5`, of the best test epoch, which most papers print, and `selected/top1`, the
    test accuracy of the epoch that was best on the validation images. After an edit `history` is empty: there is no
    choice of epochs."""
    best = {f"best/{top}": _highest(top, metrics[f"final/{top}"], history) for top in TOPS}
    if held_out:
        by_validation = max(history, key=lambda row: row["val/top1"], default={"test/top1": metrics["final/top1"]})
        best["selected/top1"] = by_validation["test/top1"]
    return best


def _against_dense(experiment: Experiment, metrics: Row) -> Row:
    """Return the accuracy of the dense network of the same recipe and seed, if the store has it, and what is gained on
    it: at the last epochs of both, deployed and in fp32, and at the best."""
    own, dense = experiment.steps[-1].key, experiment.dense_key
    if dense == own or not experiment.store.has(dense):
        return {}
    last, history = experiment.accuracy(dense), experiment.store.record(dense).history
    found: Row = {}
    for top in TOPS:
        best = _highest(top, last[top], history)
        found |= {f"dense/{top}": last[top], f"dense/best_{top}": best}
        found |= {f"gain/{top}": metrics[f"final/{top}"] - last[top], f"gain/best_{top}": metrics[f"best/{top}"] - best}
    return found


def _highest(top: str, last: float, history: list[Row]) -> float:
    return max([last, *(row[f"test/{top}"] for row in history)])
