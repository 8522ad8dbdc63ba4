"""CNN-FCF: plans, refusals, and the cut of a selected network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.plan import Stage
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.methods.filters import filter_cuts
from paredown.methods.filters.cnn_fcf import cut_factored, factor


def plan(tmp_path: Path, *words: str) -> list[Stage]:
    small = ["dataset=digits", "debug=fast", "tracking=off", f"output={tmp_path}"]
    model = [] if any(word.startswith("model=") for word in words) else ["model=resnet20", "model.depth=8"]
    return [step.stage for step in prepare(compose(["method=cnn_fcf", *small, *model, *words])).steps]


def test_the_plan(tmp_path: Path) -> None:
    words = ["method.most=5", "method.select.learning_rate=0.03", "method.finetune.learning_rate=0.02"]
    words += ["method.alpha=0.65", "method.rho=0.001", "method.growth=1.005"]
    stages = plan(tmp_path, "method.keep=0.75", *words)
    assert [stage.name for stage in stages] == ["train", "factor", "select", "prune", "finetune"]
    selection: Any = stages[2]
    recipe, hook = selection.recipe, selection.hooks[0]
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.weight_decay) == ("sgd", 0, False, 0)
    assert (hook.alpha, hook.growth, hook.most) == (0.65, 1.005, 5.0)
    assert (recipe.learning_rate, stages[-1].recipe.learning_rate) == (0.03, 0.02)  # type: ignore[union-attr]
    assert hook.keep["layer3.0.conv2"] == 48 and "conv" not in hook.keep
    assert not any("shortcut" in name for name in hook.keep)
    assert stages[1].arguments == {"names": list(hook.keep), "rho": 0.001}  # type: ignore[union-attr]
    assert stages[3].arguments == {"keep": hook.keep, "reads": "previous"}  # type: ignore[union-attr]
    full = plan(tmp_path, "speed_up=2", "method.reads=full", "method.finetune.epochs=0")
    assert full[-1].name == "prune" and full[-1].arguments["reads"] == "full"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.keep=0"], r"method.keep=0.*between 0 and 1"),
        ([], "got none"),
        (["method.keep=0.5", "sparsity=0.5"], "got sparsity=0.5 and method.keep=0.5"),
        (["method.keep=0.999"], "removes no filter of 64"),
        (["speed_up=10000"], "one channel a layer gives speed_up="),
        (["method.keep=0.5", "method.growth=0.9"], r"method.growth=0.9.*at least 1"),
        (["method.keep=0.5", "method.rho=0"], r"method.rho=0.*above 0"),
        (["method.keep=0.5", "method.reads=half"], r"method.reads"),
        (["method.keep=0.5", "model=s_fc"], "no filters to cut"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, *words)


def test_the_largest_factors_stay_folded_into_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filter_cuts, "accuracy", lambda network, context: {"top1": 0.0, "top5": 0.0})
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 20, "shortcut": "B"}
    network = blueprint.create(architecture, (3, 32, 32))
    names = [n for n, layer in network.module.named_modules() if type(layer) is torch.nn.Conv2d and "layer" in n]
    names = [name for name in names if "shortcut" not in name]
    before = network.module.get_parameter("layer1.0.conv1.weight").detach().clone()
    context = Context(SimpleNamespace(), torch.device("cpu"), 0)
    factor(network, context, names, 0.5)
    assert float(network.module.get_submodule("layer1.0.conv1").penalty) == 0.5
    blueprint.save(network, tmp_path)
    network = blueprint.read(tmp_path)  # the factors survive
    factors = {name: torch.rand(len(network.module.get_parameter(f"{name}.factors"))) for name in names}
    for name, values in factors.items():
        network.module.get_parameter(f"{name}.factors").data.copy_(values)
    keep = {name: len(values) * 3 // 4 for name, values in factors.items()}
    notes = cut_factored(network, context, keep)
    cost = count(network.module, (3, 32, 32))
    assert (cost.macs, cost.params) == (23_708_288, 155_642)  # the paper's network, batch norm narrow too
    first = factors["layer1.0.conv1"]
    largest = first.argsort(descending=True)[:12].sort().values
    assert notes["kept"]["layer1.0.conv1"] == largest.tolist()
    weight = network.module.get_parameter("layer1.0.conv1.weight")
    assert torch.allclose(weight, first[largest, None, None, None] * before[largest])
    assert notes["selected"]["layer1.0.conv1"] == int((first > 0.1).sum())
    assert notes["gap"] == pytest.approx(max(float(torch.minimum(v, 1 - v).max()) for v in factors.values()), abs=1e-6)
    blueprint.save(network, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(blueprint.load(tmp_path)(images), network.module.eval()(images))
