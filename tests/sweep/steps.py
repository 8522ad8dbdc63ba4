"""A method with the shape of SVD training, for tests: two shared fits, an edit, and a fit of its own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from typing import Any

from paredown.plan import Context, Edit, Fit, Method, Network, Recipe, Stage, Target


@dataclass(frozen=True)
class Steps(Method):
    """`decay` decides the second fit, `energy` what follows it: above 1 it raises, below 0 it kills the process, at 1
    it takes memory without end."""

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
    """The lines of a sweep file that take this method, with a grid of `decays` and `energies`."""
    decays, energies = more
    return (
        "grid: {method: [dense], method._target_: [steps.Steps], "
        f'method.decay: {list(decays)}, "+method.energy": {list(energies)}}}\n'
    )
