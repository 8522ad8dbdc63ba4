"""NISP: plans and refusals; its features are the last layer's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.plan import Stage
from paredown.experiment.prepare import prepare
from paredown.methods.filters.nisp import features


def plan(tmp_path: Path, *words: str) -> list[Stage]:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "tracking=off", f"output={tmp_path}"]
    return [step.stage for step in prepare(compose(["method=nisp", *small, *words])).steps]


def test_the_plan(tmp_path: Path) -> None:
    words = ["method.images=100", "method.alpha=0.25", "method.finetune.learning_rate=0.02"]
    stages = plan(tmp_path, "method.keep=0.5", *words)
    assert stages[-1].recipe.learning_rate == 0.02  # type: ignore[union-attr]
    assert [stage.name for stage in stages] == ["train", "prune", "finetune"]
    importance, widths = (stages[1].arguments[name] for name in ("importance", "widths"))  # type: ignore[union-attr]
    assert (importance.images, importance.alpha, importance.widths) == (100, 0.25, widths)
    assert widths["layer3.0.conv1"] == 32
    without = plan(tmp_path, "speed_up=2", "method.finetune.epochs=0")
    assert [stage.name for stage in without] == ["train", "prune"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.keep=0"], r"method.keep=0.*between 0 and 1"),
        ([], "got none"),
        (["method.keep=0.5", "speed_up=2"], "got speed_up=2 and method.keep=0.5"),
        (["method.keep=0.999"], "removes no filter of"),
        (["sparsity=0.99999"], "one channel a layer gives sparsity="),
        (["method.keep=0.5", "method.images=1"], "method.images=1.*at least 2"),
        (["method.keep=0.5", "method.alpha=2"], "method.alpha=2.*between 0 and 1"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *words)


class Data:
    """Two batches of images."""

    def train_loader(self, *arguments: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(0)
        return [(torch.randn(8, 3, 4, 4), torch.zeros(8))] * 2


def test_features_are_the_last_layers_inputs_in_eval_mode() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)
    )
    module.train()
    found = features(module, Context(Data(), torch.device("cpu"), 0), 10)
    assert found.shape == (10, 5) and module[1].num_batches_tracked == 0 and module.training
    images = torch.cat([images for images, _ in Data().train_loader()])[:10]
    with torch.no_grad():
        assert torch.allclose(found, module.eval()[:4](images))
