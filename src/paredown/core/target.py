"""The target of a compression: what the user asks of any method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from paredown.core.constraints import Checked
from paredown.core.errors import UserError
from paredown.core.keys import identity
from paredown.core.target_metrics import Quantity


@dataclass(frozen=True)
class Timing:
    """The conditions under which a latency is measured: `batch` images at once, on `threads` (None: as torch)."""

    batch: int
    threads: int | None
    device: str = "cpu"


@dataclass(frozen=True)
class Target(Checked):
    """The compression asked of any method: `sparsity` (fraction of conv and linear weights gone, in (0, 1)), `speed_up`
    (dense MACs / compressed MACs, above 1), or `latency_speed_up` (dense time / compressed time, above 1, measured
    under the conditions of `timing`)."""

    section: ClassVar[str] = "target"

    quantity: Quantity
    value: float
    timing: Timing | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantity == "sparsity" and not 0 < self.value < 1:
            raise UserError(f"sparsity={self.value:g} is not between 0 and 1 (0.95 removes 95 % of the weights)")
        if self.quantity == "speed_up" and not self.value > 1:
            raise UserError(f"speed_up={self.value:g} is not above 1 (4 means a quarter of the dense MACs)")
        if self.quantity == "latency_speed_up" and not self.value > 1:
            raise UserError(f"latency_speed_up={self.value:g} is not above 1 (2 means half of the dense time)")

    @property
    def tolerance(self) -> float:
        """How far a result may be from the target without missing it: 0.01 of sparsity, 5 % of a speed-up, 10 % of a
        measured one."""
        return {"sparsity": 0.01, "speed_up": 0.05 * self.value, "latency_speed_up": 0.1 * self.value}[self.quantity]

    @property
    def metric(self) -> str:
        """The metric that says what was reached."""
        return "latency/speed_up" if self.quantity == "latency_speed_up" else f"cost/{self.quantity}"

    def __str__(self) -> str:
        return f"{self.quantity}={self.value:g}"


@identity("goal")
@dataclass(frozen=True)
class Goal:
    """The value that decides how far an edit compresses: that of a target, or one of the edit's method, as the `energy`
    (fraction of squared singular values removed), "auto" where the edit searches it, `ranks` by layer, or `keep_params`
    (the fraction of all parameters that stays)."""

    quantity: Literal[
        "sparsity", "speed_up", "latency_speed_up", "energy", "ranks", "threshold", "ratio", "kappa", "keep_params"
    ]
    value: float | Literal["auto"] | Mapping[str, int]

    @classmethod
    def of(cls, target: Target) -> Goal:
        """Return the goal of reaching `target`."""
        return cls(target.quantity, target.value)

    def target(self) -> Target | None:
        """Return the target that is to be reached; None for a quantity of the method."""
        if self.quantity in ("sparsity", "speed_up"):
            return Target(self.quantity, self.number())
        return None

    def number(self) -> float:
        """Return the value. Raise TypeError where it is no number."""
        if not isinstance(self.value, float | int):
            raise TypeError(f"{self} is not a number")
        return self.value

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float | int) else self.value
        return f"{self.quantity}={value}"
