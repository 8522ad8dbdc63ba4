"""C-SGD: plans, closed-form costs of the paper's widths, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.plan import Stage
from paredown.experiment.prepare import prepare
from paredown.surgery.width_budget import WidthCost, scoped

COSTS = {  # of ResNet-56 with option A by widths, with the classifier
    (13, 26, 52): (82_907_656, 563_911),
    (11, 22, 44): (59_406_776, 404_293),
    (10, 20, 40): (49_121_680, 334_420),
}
DEEP = {
    (13, 26, 52): (167_012_872, 1_142_125),
    (11, 22, 44): (119_624_120, 818_707),
    (10, 20, 40): (98_888_080, 677_140),
}


def plan(tmp_path: Path, *words: str) -> list[Stage]:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "tracking=off", f"output={tmp_path}"]
    return [step.stage for step in prepare(compose(["method=c_sgd", *small, *words])).steps]


def costs(depth: int) -> dict[tuple[int, ...], tuple[int, int]]:
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": depth, "shortcut": "A"}
    network = blueprint.create(architecture, (3, 32, 32))
    groups = scoped(network)
    macs, params = WidthCost(network, groups), WidthCost(network, groups, "params")
    found = {}
    for widths in COSTS:
        kept = {g.name: g.size * widths[0] // 16 for g in groups}  # option A's trunk is 16 + 16 + 32
        found[widths] = (macs.total(kept), params.total(kept))
    return found


def test_the_costs_of_the_papers_widths() -> None:
    assert costs(56) == COSTS


@pytest.mark.slow
def test_the_costs_of_110_layers() -> None:
    assert costs(110) == DEEP


def test_the_plan_with_steps(tmp_path: Path) -> None:
    stages = plan(tmp_path, "method.keep=0.625", "method.steps=[0.8125,0.6875]", "method.strength=0.05")
    names = ["train", "centripetal_1", "prune_1", "centripetal_2", "prune_2", "centripetal", "prune"]
    assert [stage.name for stage in stages] == names
    hooks = [stage.hooks[0] for stage in stages[1::2]]  # type: ignore[union-attr]
    assert [hook.of for hook in hooks] == ["train", "prune_1", "prune_2"]  # type: ignore[attr-defined]
    assert [hook.widths["layer3.0.conv1"] for hook in hooks] == [52, 44, 40]  # type: ignore[attr-defined]
    assert all(hook.strength == 0.05 for hook in hooks)  # type: ignore[attr-defined]
    assert stages[-1].arguments["widths"] == hooks[-1].widths  # type: ignore[union-attr,attr-defined]


def test_the_scope_and_the_recipe_reach_both_stages(tmp_path: Path) -> None:
    words = ["method.keep=0.625", "method.scope=internal", "method.centripetal.learning_rate=0.07"]
    _, fit, edit = plan(tmp_path, *words)
    assert (fit.hooks[0].scope, edit.arguments["scope"]) == ("internal", "internal")  # type: ignore[union-attr]
    assert set(edit.arguments["widths"]) == {f"layer{at}.0.conv1" for at in (1, 2, 3)}  # type: ignore[union-attr]
    assert fit.recipe.learning_rate == 0.07 and fit.hooks[0].of == edit.arguments["of"] == "train"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.keep=1.5"], r"method.keep=1.5.*between 0 and 1"),
        ([], "got none"),
        (["method.keep=0.5", "sparsity=0.5"], "got sparsity=0.5 and method.keep=0.5"),
        (["method.keep=0.999"], "merges nothing"),
        (["method.keep=0.5", "method.steps=[0.4]"], r"method.steps=\[0.4\] must fall, to above method.keep=0.5"),
        (["speed_up=2", "method.steps=[0.3]"], "merges nothing, or less"),
        (["speed_up=3000"], "one channel a layer gives speed_up="),
        (["method.keep=0.5", "recipe.optimizer=adam"], "needs recipe.optimizer=sgd"),
        (["method.keep=0.5", "method.scope=[fc]"], "no group of channels begins at 'fc'"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *words)
