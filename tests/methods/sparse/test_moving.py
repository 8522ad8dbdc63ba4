"""Methods whose masks move: what they plan, what hyperparameters reach, what is recorded, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.plan import Edit, Fit
from paredown.core.target import Goal
from paredown.experiment.prepare import prepare
from paredown.layers.masked import Masked
from paredown.run import walk
from paredown.surgery import moves
from paredown.surgery.sparsify import macs_per_weight, sizes
from paredown.training.hooks.moving_masks import MovingMask

SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "latency.seconds=0.02", "tracking=off"]
METHODS = ("set", "dsr", "deep_r", "rigl", "gradual")
FALLING = ((0.0, 100), (0.125, 200), (0.4, 400), (0.7, 800))


def prepared(output: Path, *words: str) -> Any:
    return prepare(compose([*SMALL, f"output={output}", "trainer.progress=false", "recipe.precision=32", *words]))


def hook_of(experiment: Any) -> MovingMask:
    (hook,) = experiment.steps[-1].stage.hooks
    assert isinstance(hook, MovingMask)
    return hook


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["sparsity=0.95", "speed_up=6"])
def test_the_plan_is_a_masking_and_a_training_to_the_target(method: str, target: str, tmp_path: Path) -> None:
    words = [f"method={method}", target, "method.least=2"]
    if method == "dsr" and target.startswith("speed"):
        with pytest.raises(
            UserError, match=r"dsr moves weights between layers.*cannot aim at speed_up=6; give sparsity="
        ):
            assert prepared(tmp_path, *words).steps
        return
    point = prepared(tmp_path, *words)
    edit, fit = (step.stage for step in point.steps)
    assert isinstance(edit, Edit) and isinstance(fit, Fit) and (edit.name, fit.name) == ("scatter", "train")
    most, counts = sizes(point.dense()), edit.arguments["weights"]
    if method == "gradual":
        assert counts == most and hook_of(point).rule.goal == Goal(*_typed(target))  # type: ignore[attr-defined]
    elif target.startswith("sparsity"):
        total = sum(most.values())
        assert sum(counts.values()) == total - math.floor(0.95 * total + 0.5)
    else:
        price = macs_per_weight(point.dense())
        whole, spent = (sum(price[name] * number for name, number in each.items()) for each in (most, counts))
        assert whole / 6 * 0.999 < spent <= whole / 6
    assert min(counts.values()) >= 2


def _typed(target: str) -> tuple[Any, float]:
    name, value = target.split("=")
    return name, float(value)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["method=set", "method.fraction=0.3", "method.by_sign=true"], moves.SET(0.3, by_sign=True)),
        (["method=set", "method.back=true", "method.one_more=false"], moves.SET(back=True, one_more=False)),
        (["method=deep_r", "method.noise=0.1", "method.l1=0"], moves.DeepR(0.1, 0.0)),
        (["method=rigl", "method.fraction=0.5"], moves.RigL(0.5)),
        (
            ["method=gradual", "method.scope=layer", "method.least=3"],
            moves.Gradual(Goal("sparsity", 0.9), "layer", 3),
        ),
    ],
)
def test_what_is_set_arrives_at_the_rule(words: list[str], rule: moves.Rule, tmp_path: Path) -> None:
    assert hook_of(prepared(tmp_path, *words, "sparsity=0.9")).rule == rule


def test_the_budget_of_dsr_is_a_number_of_the_active_weights(tmp_path: Path) -> None:
    words = ["method=dsr", "method.budget=0.2", "method.threshold=0.01", "method.least=4", "sparsity=0.9"]
    point = prepared(tmp_path, *words)
    kept = sum(point.steps[0].stage.arguments["weights"].values())
    assert hook_of(point).rule == moves.DSR(round(0.2 * kept), 0.01, 4)


@pytest.mark.parametrize(
    ("words", "period", "until", "begin"),
    [
        (["method=set"], FALLING, 1.0, 0.0),
        (["method=dsr"], FALLING, 1.0, 0.0),
        (["method=deep_r"], ((0.0, 1),), 1.0, 0.0),
        (["method=rigl"], ((0.0, 100),), 0.75, 0.0),
        (["method=gradual"], ((0.0, 100),), 0.5, 0.0),
        (["method=gradual", "method.begin=0.2", "method.end=0.6"], ((0.0, 100),), 0.6, 0.2),
        (["method=set", "method.period=7", "method.until=0.5"], ((0.0, 7),), 0.5, 0.0),
        (["method=rigl", "method.period=[[0,5],[0.5,9]]"], ((0.0, 5), (0.5, 9)), 0.75, 0.0),
    ],
)
def test_the_schedule_arrives_and_has_the_published_defaults(
    words: list[str], period: Any, until: float, begin: float, tmp_path: Path
) -> None:
    long = [word for word in SMALL if word != "debug=fast"]
    hook = hook_of(prepare(compose([*long, "recipe.precision=32", f"output={tmp_path}", *words, "sparsity=0.9"])))
    assert (hook.period, hook.until, hook.begin) == (period, until, begin)


def test_the_start_arrives(tmp_path: Path) -> None:
    starts = {
        words: prepared(tmp_path, f"method={words[0]}", f"method.start={words[1]}", *words[2:], "sparsity=0.9")
        .steps[0]
        .stage.arguments["weights"]
        for words in [("set", "uniform"), ("set", "er"), ("rigl", "erk"), ("rigl", "uniform", "method.keep_first=true")]
    }
    assert len({tuple(counts.values()) for counts in starts.values()}) == 4
    assert len({sum(counts.values()) for counts in starts.values()}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=set"], "set trains a network of a given sparsity: give sparsity= or speed_up="),
        (["method=dsr"], "dsr trains a network of a given sparsity: give sparsity="),
        (["method=set", "sparsity=0.9", "method.fraction=1.5"], r"method.fraction=1.5 \(.*in \(0, 1\]\)"),
        (["method=rigl", "sparsity=0.9", "method.until=0"], r"method.until=0 \(.*in \(0, 1\]\)"),
        (["method=set", "sparsity=0.9", "method.period=100"], "masks would never move: .*100 steps apart"),
        (["method=gradual", "sparsity=0.9", "method.period=100"], "100 steps apart"),
        (["method=set", "sparsity=0.9", "method.period=0"], r"method.period=.*\(steps, at least 1, or \[\[0, steps\]"),
        (["method=set", "sparsity=0.9", "method.period=[[0.5,10]]"], r"method.period=.*\(steps, at least 1"),
        (["method=set", "sparsity=0.9", "method.period=[[0,10],[0,20]]"], r"method.period=.*rising fractions below 1"),
        (["method=set", "sparsity=0.9", "method.period=often"], r"method.period=.*\(.*steps, at least 1"),
        (["method=set", "sparsity=0.9995"], "sparsity=0.9995 leaves no weight in conv.* method.least=1"),
        (["method=dsr", "sparsity=0.99", "method.least=200"], "method.least=200 needs more"),
        (
            ["method=gradual", "sparsity=0.9995", "method.scope=layer", "method.least=0"],
            "method.scope=layer cannot reach sparsity",
        ),
        (["method=gradual", "speed_up=3", "method.scope=layer"], "method.scope=layer takes sparsity="),
        (["method=gradual", "sparsity=0.9", "method.begin=0.5"], r"method.begin=0.5 is not below method.end=0.5"),
        (["method=deep_r", "sparsity=0.9", "method.l1=-1"], r"method.l1=-1 \(.*at least 0\)"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        assert prepared(tmp_path, *words).steps
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["dsr", "gradual"])
def test_a_run_records_its_moves(method: str, tmp_path: Path) -> None:
    words = [f"method={method}", "sparsity=0.9"]
    point = prepared(tmp_path, *words)
    result = walk.run([*SMALL, f"output={tmp_path}", "trainer.progress=false", "recipe.precision=32", *words])
    last = [layer for layer in point.store.read(point.steps[-1].key).module.modules() if isinstance(layer, Masked)]
    total = sum(sizes(point.dense()).values())
    assert sum(layer.active_weights() for layer in last) == total - math.floor(0.9 * total + 0.5)
    assert all(not layer.weight[~layer.mask].any() for layer in last)
    assert result.metrics["cost/sparsity"] == pytest.approx(0.9, abs=1 / total)
    outcomes = point.outcomes()
    rows = outcomes[-1].history
    assert result.metrics["moved/total"] == sum(row["moved/connections"] for row in rows) > 0
    assert result.metrics["layers/without_weights"] == 0
    figures = point.method.figures(outcomes)
    assert set(figures) == {"density", "moved", "density_over_epochs"} | ({"threshold"} if method == "dsr" else set())
    assert list(figures["moved"].data[0].y) == [row["moved/connections"] for row in rows]
    ends = [int(layer.mask.sum()) / layer.mask.numel() for layer in last]
    assert [trace.name for trace in figures["density"].data] == ["start", "end"]
    assert list(figures["density"].data[1].y) == ends
    assert all(math.isfinite(value) for trace in figures["density_over_epochs"].data for value in trace.y)


def test_every_method_starts_at_random_places_of_its_seed(tmp_path: Path) -> None:
    edit = prepared(tmp_path, "method=set", "sparsity=0.9").steps[0].stage
    found = []
    for seed in (3, 3, 4):
        network = prepared(tmp_path, "method=set", "sparsity=0.9").dense()
        context = type("Seeded", (), {"seed": seed})()
        notes = edit.function(network, context, **edit.arguments)
        masks = [layer.mask for layer in network.module.modules() if isinstance(layer, Masked)]
        assert [int(mask.sum()) for mask in masks] == list(notes["kept"].values())
        found.append(torch.cat([mask.flatten() for mask in masks]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
