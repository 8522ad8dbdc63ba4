"""The network as it is: the reference every method is compared with, with explicit orthogonality if wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paredown.core.constraints import NonNegative
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.plan import Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.training.hooks.penalties import SoftOrthogonality


@dataclass(frozen=True)
class Dense(Method):
    """Training of the dense network. `orthogonality` adds the SO or DSO penalty (Bansal et al. 2018) with `decay`."""

    orthogonality: Literal["none", "so", "dso"] = "none"
    decay: NonNegative = 1e-2

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Plan one fit. Raise UserError for a target: there is nothing to remove."""
        if target:
            raise UserError(f"method dense removes nothing, so it cannot reach {target}: choose another method")
        if self.orthogonality == "none":
            return [Fit("train", recipe)]
        return [Fit("train", recipe, (SoftOrthogonality(self.decay, self.orthogonality == "dso"),))]
