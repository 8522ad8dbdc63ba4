"""The network as it is: the reference every method is compared with, with explicit orthogonality if wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paredown.errors import UserError
from paredown.plan import Fit, Method, Network, Recipe, Stage, Target
from paredown.training.penalties import SoftOrthogonality


@dataclass(frozen=True)
class Dense(Method):
    """Trains the dense network. `orthogonality` adds the SO or DSO penalty (Bansal et al. 2018) with `decay`."""

    orthogonality: Literal["none", "so", "dso"] = "none"
    decay: float = 1e-2

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise UserError(f"method.decay={self.decay:g} is below 0")

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """One fit. A target is refused: there is nothing to remove."""
        if target:
            raise UserError(f"method dense removes nothing, so it cannot reach {target}: choose another method")
        if self.orthogonality == "none":
            return [Fit("train", recipe)]
        return [Fit("train", recipe, (SoftOrthogonality(self.decay, self.orthogonality == "dso"),))]
