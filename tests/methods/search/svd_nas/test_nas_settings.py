"""What a user sets wins over what is published, zeros and false too."""

from __future__ import annotations

import pytest
import torch

from paredown.core import blueprint
from paredown.methods.search.svd_nas.config import Synthetic


@pytest.fixture(scope="module")
def network() -> blueprint.Network:
    with torch.device("meta"):
        return blueprint.create({"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}, (3, 32, 32))


def test_null_is_as_published(network) -> None:
    found = Synthetic().settings(network)
    assert (found["learning_rate"], found["alpha"], found["average"], tuple(found["excluded"])) == (0.25, 1.0, True, ())


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.0), ("average", False), ("excluded", (1, 2)), ("alpha", 3.0)])
def test_what_is_set_is_kept(network, name: str, value: object) -> None:
    found = Synthetic(**{name: value}).settings(network)[name]
    assert (tuple(found) if isinstance(found, list) else found) == value


def test_no_excluded_norms_can_be_asked_for() -> None:
    with torch.device("meta"):
        efficientnet = blueprint.create({"_target_": "paredown.models.torchvision.efficientnet_b0"}, (3, 32, 32))
    assert list(Synthetic().settings(efficientnet)["excluded"])
    assert not list(Synthetic(excluded=()).settings(efficientnet)["excluded"])
