"""What a run says of itself from its first stage to the measurement."""

from __future__ import annotations

from pathlib import Path

from paredown.core import progress
from paredown.core.progress import Work
from paredown.run import walk

WORDS = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.2", "recipe.epochs=1"]
WORDS += ["method=snip", "sparsity=0.5", "recipe.precision=32", "latency.seconds=0.02", "tracking=off", "progress=off"]


class Heard:
    """The names of the works that ended, each behind those that it ran within."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def tell(self, line: str) -> None:
        """Hear nothing."""

    def closing(self, work: Work) -> None:
        """Keep the names."""
        self.paths.append(" > ".join(one.name for one in progress.under_way()))


def test_each_stage_of_the_plan_and_the_measurement_are_named(tmp_path: Path) -> None:
    with progress.heard_by(heard := Heard()):
        walk.run([*WORDS, f"output={tmp_path}"])
    assert heard.paths == [
        *("stage 1 of 2: prune > scoring", "stage 1 of 2: prune"),
        *("stage 2 of 2: train > training > epoch 1 > evaluation", "stage 2 of 2: train > training > epoch 1"),
        *("stage 2 of 2: train > training", "stage 2 of 2: train"),
        *("measuring > latency", "measuring > evaluation", "measuring"),
    ]
