"""Experiments of the command line, from Python."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from paredown.core.config import compose
from paredown.core.constraints import written
from paredown.cost import Cost
from paredown.experiment import experiment
from paredown.experiment.prepare import prepare
from paredown.run import walk
from paredown.run.walk import Result


class Experiment:
    """One experiment as `paredown run` makes it, checked and planned; nothing is trained before `run`.

    >>> import paredown
    >>> one = paredown.Experiment("method=ssc", "model=resnet20", "dataset=digits", sparsity=0.9)
    >>> one.stages
    ['ssc', 'train']
    """

    def __init__(self, *words: str, **settings: Any) -> None:
        self.words = overrides(*words, **settings)
        _ = self.planned.steps  # so that a mistake is said at once

    @cached_property
    def planned(self) -> experiment.Experiment:
        """Everything chosen, checked and named by its key."""
        return prepare(compose(self.words))

    @property
    def stages(self) -> list[str]:
        """The names of the stages, in order."""
        return [step.stage.name for step in self.planned.steps]

    @property
    def keys(self) -> list[str]:
        """The key of each stage's state."""
        return [step.key for step in self.planned.steps]

    @property
    def dense_cost(self) -> Cost:
        """What the dense network costs."""
        return self.planned.dense_cost

    def run(self) -> Result:
        """Run what is missing, or return the stored result."""
        return walk.run(self.words)


def run(*words: str, **settings: Any) -> Result:
    """Run the experiment of `words`, as typed after `paredown run`, and of `settings` (sparsity=0.9), or return its
    stored result. Raise UserError before anything is trained for whatever is wrong with them."""
    return walk.run(overrides(*words, **settings))


def overrides(*words: str, **settings: Any) -> list[str]:
    """Return the words of a command line that `words` and `settings` stand for."""
    return [
        *words,
        *(f"{name}={value if isinstance(value, str) else written(value)}" for name, value in settings.items()),
    ]
