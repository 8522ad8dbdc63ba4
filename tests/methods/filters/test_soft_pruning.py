"""SFP and FPGM: what they plan, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.plan import Stage
from paredown.experiment.prepare import prepare


def plan(tmp_path: Path, *words: str) -> list[Stage]:
    small = ["dataset=digits", "model.depth=8", "debug=fast", "tracking=off", f"output={tmp_path}"]
    model = [] if any(word.startswith("model=") for word in words) else ["model=resnet20"]
    small = [word for word in small if model or not word.startswith("model.")]
    return [step.stage for step in prepare(compose([*words, *model, *small])).steps]


def names(stages: list[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def hook(stages: list[Stage]) -> Any:
    return next(stage for stage in stages if stage.name == "soft").hooks[0]  # type: ignore[union-attr]


def test_the_plans(tmp_path: Path) -> None:
    sfp = plan(tmp_path, "method=sfp", "method.keep=0.7", "method.soft.learning_rate=0.01")
    assert names(sfp) == ["soft", "prune"]
    assert sfp[0].recipe.learning_rate == 0.01  # type: ignore[union-attr]
    assert (hook(sfp).choice, hook(sfp).batch_norm, hook(sfp).frozen, hook(sfp).every) == ("l2", True, False, 1)
    assert set(hook(sfp).keep.values()) == {12, 23, 45} and hook(sfp).keep["conv"] == 12
    assert sfp[-1].arguments["keep"] == hook(sfp).keep  # type: ignore[union-attr]
    fpgm = plan(tmp_path, "method=fpgm", "method.keep=0.6", "method.keep_norm=0.7")
    assert names(fpgm) == ["train", "soft", "prune"]
    assert (hook(fpgm).choice, hook(fpgm).frozen) == ("distance", True)
    assert hook(fpgm).by_norm["conv"] == 4 and hook(fpgm).keep["conv"] == 10  # int(16 * 0.3) by norm, 2 by distance


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=sfp"], "one of sparsity=, speed_up= and method.keep=, got none"),
        (["method=sfp", "method.keep=0.7", "speed_up=2"], "got speed_up=2 and method.keep=0.7"),
        (["method=sfp", "method.keep=1"], r"method.keep=1.*between 0 and 1"),
        (["method=sfp", "method.keep=0"], r"method.keep=0.*between 0 and 1"),
        (["method=fpgm", "method.keep=-1"], r"method.keep=-1.*between 0 and 1"),
        (["method=sfp", "method.keep=0.99"], "removes no filter"),
        (["method=sfp", "speed_up=1000"], "out of reach: one channel a layer gives speed_up="),
        (["method=fpgm", "sparsity=0.9999"], "out of reach: one channel a layer gives sparsity="),
        (["method=sfp", "speed_up=2", "model=three_fc"], "has no filters to cut"),
        (["method=fpgm", "method.keep=0.7", "method.keep_norm=0.5"], "keep_norm=0.5 is below method.keep=0.7"),
        (["method=fpgm", "method.keep=0.7", "method.every=2"], "frozen filters are chosen once"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *words)
