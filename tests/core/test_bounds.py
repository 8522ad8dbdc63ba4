"""A network that a file asks for is not built where it is far larger than the weights beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from torch import nn

from paredown.core import blueprint
from paredown.core.bounds import bounded
from paredown.core.errors import UserError

ARCHITECTURE = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "num_classes": 10}


@pytest.mark.parametrize(
    "wrong", [{"depth": 6 * 10**6 + 2}, {"width": 60}, {"num_classes": 3 * 10**6}, {"in_channels": 10**6}], ids=str
)
def test_huge_numbers_are_one_line_at_once(wrong: dict[str, int], tmp_path: Path) -> None:
    blueprint.save(blueprint.create(ARCHITECTURE, (3, 8, 8)), tmp_path)
    path = tmp_path / blueprint.ARCHITECTURE
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"architecture": ARCHITECTURE | wrong}))
    started = time.process_time()
    with pytest.raises(UserError, match="its numbers are wrong"):
        blueprint.read(tmp_path)
    assert time.process_time() - started < 5


def test_what_is_built_for_other_reasons_is_not_bounded() -> None:
    with bounded({}), pytest.raises(UserError, match="holds 0 tensors"):
        nn.Linear(10_000, 10_000)
    assert nn.Linear(10_000, 10_000).weight.numel() == 10**8


@pytest.mark.parametrize("shape", [[3, 8], [3, 0, 8], [3, -8, -8], [3, 10**6, 10**6], ["3", 8, 8], None])
def test_a_shape_of_no_image_is_refused(shape: object, tmp_path: Path) -> None:
    blueprint.save(blueprint.create(ARCHITECTURE, (3, 8, 8)), tmp_path)
    path = tmp_path / blueprint.ARCHITECTURE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"input_shape": shape}))
    with pytest.raises(UserError, match=rf"{blueprint.ARCHITECTURE}.*\(restore it from a copy"):
        blueprint.read(tmp_path)
