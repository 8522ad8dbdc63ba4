"""The axes of a front: metrics with their titles and directions, and budgets on them (`speed_up>=3`)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, isfinite

from paredown.core.errors import UserError, nearest
from paredown.frontier.dominance import same

TITLES = {
    "final/top1": "top-1, last epoch (%)",
    "final/top5": "top-5, last epoch (%)",
    "best/top1": "top-1, best test epoch (%)",
    "selected/top1": "top-1, best validation epoch (%)",
    "gain/top1": "top-1 against dense (points)",
    "gain/base_top1": "top-1 against the method's network before compression (points)",
    "cost/macs": "multiply-adds per image",
    "cost/params": "parameters",
    "cost/weights": "weights",
    "cost/bytes": "bytes of the deployed network, zeros left out",
    "cost/speed_up": "speed-up: dense MACs / MACs",
    "cost/compression": "compression: dense parameters / parameters",
    "cost/sparsity": "sparsity: share of the weights gone",
    "latency/ms": "measured latency (ms a batch)",
    "latency/speed_up": "measured speed-up: dense time / time",
    "bench/ms_b1": "measured latency of one image (ms)",
    "bench/ms_b32": "measured latency of 32 images (ms)",
    "price/images": "training images",
    "price/other_images": "images of searches, scoring, distillation and batch norms",
    "price/compression_images": "images seen by the compression, after the dense training",
    "price/epochs": "training epochs",
    "price/seconds": "training time (s)",
    "price/macs": "training multiply-adds",
}
MORE_IS_BETTER = ("top1", "top5", "gain/", "speed_up", "compression", "sparsity")
RELATIVE = ("gain/", "cost/speed_up", "cost/compression", "cost/sparsity", "latency/speed_up")
SHORT = ("final", "cost", "latency", "price", "gain")  # prefixes tried for a short name, in this order
COMPARE: dict[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Axis:
    """A metric to draw, by its name in MLflow."""

    name: str

    @property
    def title(self) -> str:
        """The label of the axis, with its unit."""
        return TITLES.get(self.name, self.name)

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return any(word in self.name for word in MORE_IS_BETTER)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value that the metric can have: 0 to 100 for an accuracy in percent."""
        if self.name.endswith(("top1", "top5")) and not self.name.startswith("gain/"):
            return 0.0, 100.0
        return (-inf, inf) if self.name.startswith("gain/") else (0.0, inf)

    @property
    def exact(self) -> bool:
        """Whether it is counted on the network, and so equal for every seed, not measured or trained."""
        return self.name.startswith("cost/")

    @property
    def relative(self) -> bool:
        """Whether it is relative to the dense network of the same model, so that models cannot share the axis."""
        return self.name.startswith(RELATIVE)

    @property
    def measured(self) -> bool:
        """Whether it depends on the machine."""
        return self.name.startswith(("latency/", "bench/")) or self.name == "price/seconds"


def axis(name: str, recorded: Iterable[str]) -> Axis:
    """Return the metric `name` among the `recorded` ones: in full (cost/macs), or short (macs) for the first of final/,
    cost/, latency/, price/ and gain/ that has it. Raise UserError with the nearest names for an unknown one."""
    known = set(recorded)
    for whole in (name, *(f"{prefix}/{name}" for prefix in SHORT)):
        if whole in known:
            return Axis(whole)
    timed = " (python src/bench.py run=ID records those of a bench)" if name.startswith("bench/") else ""
    raise UserError(f"no metric {name!r} is recorded in these runs{timed}: {nearest(name, known)}")


@dataclass(frozen=True)
class Budget:
    """A bound on a metric, such as `speed_up>=3`."""

    axis: Axis
    relation: str
    bound: float

    def holds(self, value: float) -> bool:
        """Return whether `value` is within the bound; NaN is not. Rounding decides nothing (`dominance.same`)."""
        if same(value, self.bound):
            return self.relation.endswith("=")
        return COMPARE[self.relation[0]](value, self.bound)

    def __str__(self) -> str:
        return f"{self.axis.name} {self.relation} {self.bound:g}"


def budgets(text: str | None, recorded: Iterable[str]) -> list[Budget]:
    """Parse the bounds in `text`, separated by commas: 'speed_up>=3, latency/ms<=2'. Raise UserError for any other."""
    known = list(recorded)
    return [_budget(part.strip(), known) for part in (text or "").split(",") if part.strip()]


def _budget(text: str, recorded: Iterable[str]) -> Budget:
    found = re.fullmatch(r"([\w/.\-]+)\s*(>=|<=|>|<)\s*(\S+)", text)
    try:
        name, relation, bound = found.groups() if found else ("", "", "")
        return Budget(axis(name, recorded), relation, float(bound)) if isfinite(float(bound)) else _no_budget(text)
    except ValueError:
        return _no_budget(text)


def _no_budget(text: str) -> Budget:
    raise UserError(f"cannot read budget {text!r}: write METRIC>=NUMBER or METRIC<=NUMBER, as in 'speed_up>=3'")
