"""A small network of every way to be smaller, as it is exported."""

from __future__ import annotations

import pytest
import torch

from paredown.core import blueprint
from paredown.core.network import Network
from paredown.export.files import Source
from paredown.runtime.optimise import build

ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
FACTS = {"classes": ["nought", "één"], "input": [1, 8, 8], "mean": [0.5], "std": [0.25]}


@pytest.fixture(scope="session")
def network() -> Network:
    """SSC, low rank and dense layers, with batch norms that have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = blueprint.create(ARCHITECTURE, (1, 8, 8))
        blueprint.rewrite(made, "layer2.0.conv2", "ssc", g=4, p=4)
        blueprint.rewrite(made, "layer3.0.conv1", "low_rank", factorisation="vertical_first", rank=5)
        for _ in range(3):
            made.module.train()(torch.randn(16, 1, 8, 8))
    made.module.eval()
    return made


@pytest.fixture(scope="session")
def source(network: Network) -> Source:
    return Source(network, build(network, {}), {}, FACTS)
