"""A whole fit in packed form against the masked dense one, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.hooks import Context, Hooks
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.layers.ssc.layer import SSCConv2d
from paredown.training.fit import fit
from paredown.training.hooks.packed import Packed
from paredown.training.machine import Machine
from paredown.training.module import Row

ARCHITECTURE = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "width": 2, "in_channels": 1}
LAYERS = ("layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2")  # one of stride 2
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


def train(data: Digits, folder: Path, hooks: tuple[Hooks, ...], stop_after: int | None = None) -> dict[str, Tensor]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    for name in LAYERS:
        blueprint.rewrite(network, name, "ssc", g=4, p=3)
    folder.mkdir(exist_ok=True)
    fit(
        network,
        Fit("train", Recipe(epochs=2, learning_rate=0.02), hooks),
        Context(data, torch.device("cpu"), 7),
        MACHINE,
        folder,
        report,
    )
    layer = network.module.get_submodule(LAYERS[1])
    assert isinstance(layer, SSCConv2d) and layer.groups_run == (4 if hooks else 1)
    return network.module.state_dict()


def test_it_ends_where_the_masked_form_ends_and_resumes_bit_equal(data: Digits, tmp_path: Path) -> None:
    masked, packed = (train(data, tmp_path / str(len(hooks)), hooks) for hooks in ((), (Packed(LAYERS),)))
    assert masked.keys() == packed.keys()
    for name, tensor in packed.items():
        torch.testing.assert_close(tensor, masked[name], rtol=0, atol=1e-5)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", (Packed(LAYERS),), stop_after=1)
    resumed = train(data, tmp_path / "cut", (Packed(LAYERS),))
    assert all(torch.equal(tensor, packed[name]) for name, tensor in resumed.items())
