"""What may be drawn against what: each metric's direction and title, and budgets on them (`speed_up>=3`)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paredown.errors import UserError, nearest

TITLES = {
    "final/top1": "top-1, last epoch (%)",
    "final/top5": "top-5, last epoch (%)",
    "best/top1": "top-1, best test epoch (%)",
    "selected/top1": "top-1, best validation epoch (%)",
    "gain/top1": "top-1 against dense (points)",
    "gain/base_top1": "top-1 against the method's own full-rank network (points)",
    "cost/macs": "multiply-adds per image",
    "cost/params": "parameters",
    "cost/weights": "weights",
    "cost/speed_up": "speed-up: dense MACs / MACs",
    "cost/compression": "compression: dense / own parameters",
    "cost/sparsity": "sparsity: share of the weights gone",
    "latency/ms": "measured latency (ms a batch)",
    "latency/speed_up": "measured speed-up: dense time / time",
    "price/epochs": "training epochs",
    "price/seconds": "training time (s)",
    "price/macs": "training multiply-adds",
}
MORE_IS_BETTER = ("top1", "top5", "gain/", "speed_up", "compression", "sparsity")
RELATIVE = ("gain/", "cost/speed_up", "cost/compression", "cost/sparsity", "latency/speed_up")
SHORT = ("final", "cost", "latency", "price", "gain")  # where a short name is looked for, in this order
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Axis:
    """A metric to draw: its name in MLflow."""

    name: str

    @property
    def title(self) -> str:
        """For people."""
        return TITLES.get(self.name, self.name)

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return any(word in self.name for word in MORE_IS_BETTER)

    @property
    def exact(self) -> bool:
        """Whether it is counted on the network, not measured or learnt."""
        return self.name.startswith("cost/")

    @property
    def relative(self) -> bool:
        """Whether it is told against a model's own dense network, so that two models do not share the axis."""
        return self.name.startswith(RELATIVE)

    @property
    def measured(self) -> bool:
        """Whether it depends on the machine."""
        return self.name.startswith("latency/") or self.name == "price/seconds"


def axis(name: str, recorded: Iterable[str]) -> Axis:
    """The metric `name` among the `recorded` ones: whole (cost/macs), or short (macs) for the first of final/, cost/,
    latency/, price/ and gain/ that has it. UserError names the nearest ones."""
    known = set(recorded)
    for whole in (name, *(f"{prefix}/{name}" for prefix in SHORT)):
        if whole in known:
            return Axis(whole)
    raise UserError(f"no metric {name!r} is recorded in these runs: {nearest(name, known)}")


@dataclass(frozen=True)
class Budget:
    """A bound on a metric, as `speed_up>=3`."""

    axis: Axis
    relation: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether `value` keeps it; NaN does not."""
        return COMPARE[self.relation](value, self.bound)

    def __str__(self) -> str:
        return f"{self.axis.name} {self.relation} {self.bound:g}"


def budgets(text: str | None, recorded: Iterable[str]) -> list[Budget]:
    """The bounds in `text`, with commas between them: 'speed_up>=3, latency/ms<=2'. UserError for what is none."""
    known = list(recorded)
    return [_budget(part.strip(), known) for part in (text or "").split(",") if part.strip()]


def _budget(text: str, recorded: Iterable[str]) -> Budget:
    found = re.fullmatch(r"([\w/.\-]+)\s*(>=|<=|>|<)\s*(\S+)", text)
    try:
        name, relation, bound = found.groups() if found else ("", "", "")
        return Budget(axis(name, recorded), relation, float(bound)) if found else _no_budget(text)
    except ValueError:
        return _no_budget(text)


def _no_budget(text: str) -> Budget:
    raise UserError(f"cannot read budget {text!r}: write METRIC>=NUMBER or METRIC<=NUMBER, as in 'speed_up>=3'")
