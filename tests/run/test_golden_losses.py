"""The losses of two epochs, pinned: what trains, on what, in which order and under which augmentation.

Where this fails, a training computes something else than it did. If that is meant, raise the version of what changed
(core/keys.py) and write the new numbers: `python tests/golden/write.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paredown.core.config import compose
from paredown.experiment.prepare import prepare
from paredown.run.walk import carry_out

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
METHODS = {
    "dense": ["method.orthogonality=so"],
    "ssc": ["sparsity=0.8", "method.packed=false"],
    "svd_training": ["speed_up=2"],
    "trp": ["speed_up=2"],
    "beta_lasso": ["recipe=beta_lasso"],
}
SMALL = [
    *("dataset=digits", "dataset.fraction=0.2", "dataset.augment.crop=1", "model=resnet20", "model.depth=8"),
    *("recipe.epochs=2", "recipe.batch_size=64", "recipe.precision=32", "recipe.channels_last=false"),
    *("latency.seconds=0.02", "tracking=off", "trainer.progress=false", "trainer.accelerator=cpu"),
]
TOLERANCE = 2e-3  # relative: processors round otherwise, and a training amplifies that


def losses(method: str, folder: Path) -> dict[str, list[float]]:
    """Return the training loss of each epoch, by stage."""
    found: dict[str, list[float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        experiment = prepare(compose([f"method={method}", *METHODS[method], *SMALL, f"output={folder}"]))
        carry_out(experiment, lambda step, _, row: found.setdefault(step.stage.name, []).append(row["train/loss"]))
    finally:
        torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_the_pinned_ones(method: str, tmp_path: Path) -> None:
    pinned = json.loads(GOLDEN.read_text())[method]
    found = losses(method, tmp_path)
    assert found.keys() == pinned.keys()
    for stage, values in found.items():
        assert values == pytest.approx(pinned[stage], rel=TOLERANCE), stage
