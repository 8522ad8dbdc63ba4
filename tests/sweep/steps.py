"""A method with the stages of SVD training, for tests: two shared fits, an edit, and a fit that is not shared."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from typing import Any

from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target


@dataclass(frozen=True)
class Steps(Method):
    """A method whose second fit depends on `decay` and whose edit on `energy`: above 1 the edit raises, below 0 it
    kills the process, at 1 it exhausts the memory."""

    orthogonality: str = "none"
    decay: float = 0.01
    energy: float = 0.1

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        return [
            Fit("full_rank", recipe),
            Fit("sparsify", replace(recipe, weight_decay=self.decay)),
            Edit("prune", shrink, {"energy": self.energy}),
            Fit("finetune", recipe),
        ]


@identity("test/shrink")
def shrink(network: Network, context: Context, energy: float) -> None:
    if energy > 1:
        raise ValueError(f"no energy is above 1, not even {energy}")
    if energy < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    taken = []
    while energy == 1:
        taken.append(bytearray(os.urandom(2**20) * 64))
    for parameter in network.module.parameters():
        parameter.data.mul_(1 - energy)


def words(*more: Any) -> str:
    """Return the lines of a sweep file for this method, with a grid of decays and energies."""
    decays, energies = more
    return (
        "grid: {method: [dense], method._target_: [steps.Steps], "
        f'method.decay: {list(decays)}, "+method.energy": {list(energies)}}}\n'
    )
