"""An experiment before anything is trained: built once, keyed, and its stages see those before them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.core import blueprint, distributed
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.run.walk import carry_out

SMALL = [
    *("dataset=digits", "dataset.fraction=0.1", "model=resnet20", "model.depth=8", "recipe.epochs=1"),
    *("latency.seconds=0.02", "tracking=off", "trainer.progress=false", "trainer.accelerator=cpu"),
]


def experiment(tmp_path: Path, *words: str) -> Experiment:
    return prepare(compose([*SMALL, f"output={tmp_path}", *words]))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The architectures that are built from here on."""
    from paredown.experiment import experiment as module

    module._dense.cache_clear()
    found: list[str] = []
    create = blueprint.create

    def counted(architecture: dict[str, Any], shape: tuple[int, int, int]) -> Network:
        found.append(architecture["_target_"])
        return create(architecture, shape)

    monkeypatch.setattr(blueprint, "create", counted)
    return found


def test_a_run_builds_its_dense_network_once(tmp_path: Path, builds: list[str]) -> None:
    carry_out(experiment(tmp_path, "method=ssc", "sparsity=0.8"))
    assert len(builds) == 1


def test_the_dense_network_is_a_fresh_copy_of_one_start(tmp_path: Path) -> None:
    first = experiment(tmp_path)
    one, two = first.dense(), first.dense()
    one.module.get_parameter("conv.weight").data.zero_()
    assert two.module.get_parameter("conv.weight").any() and first.dense().module.get_parameter("conv.weight").any()
    other = experiment(tmp_path, "seed=1").dense().module.state_dict()
    assert not torch.equal(other["conv.weight"], two.module.state_dict()["conv.weight"])
    again = experiment(tmp_path, "method=ssc", "sparsity=0.8").dense().module.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in two.module.state_dict().items())


@identity("test/remember")
def remember(network: Network, context: Context, to: str | None) -> dict[str, Any]:
    """Go back to the network of an earlier stage, as a lottery ticket is rewound."""
    before = context.earlier(to)
    network.module.load_state_dict(before.module.state_dict())
    return {"norm": float(before.module.get_parameter("conv.weight").norm())}


@dataclass(frozen=True)
class Rewinding(Method):
    """Trains twice, and rewinds to the start or to the first training."""

    to: str | None = None

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        short = replace(recipe, epochs=1)
        return [Fit("first", short), Fit("second", short), Edit("rewind", remember, {"to": self.to})]


@pytest.mark.parametrize("to", [None, "first"])
def test_a_stage_sees_the_network_that_an_earlier_one_left(tmp_path: Path, to: str | None) -> None:
    made = replace(experiment(tmp_path), method=Rewinding(to))
    result = carry_out(made)
    expected = made.dense() if to is None else made.store.read(made.steps[0].key)
    found = blueprint.read(result.state).module.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.module.state_dict().items())
    assert made.store.record(made.steps[2].key).notes["norm"] > 0


def test_an_earlier_stage_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    made = replace(experiment(tmp_path), method=Rewinding("third"))
    with pytest.raises(UserError, match=r"no stage 'third' before 'rewind': there are first, second"):
        carry_out(made)


def test_a_state_that_was_deleted_is_made_again_where_a_later_one_is_there(tmp_path: Path) -> None:
    made = replace(experiment(tmp_path), method=Rewinding("first"))
    before = blueprint.read(carry_out(made).state).module.state_dict()
    for gone in (made.steps[0], made.steps[2]):
        shutil.rmtree(made.store.folder(gone.key))
    (made.folder / "result.json").unlink()
    after = blueprint.read(carry_out(made).state).module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(made.store.has(step.key) for step in made.steps)


def test_ranks_are_compared_after_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits too: masks may move in them. tests/core/test_distributed.py shows what is compared."""
    compared: list[str] = []
    monkeypatch.setattr(distributed, "require_agreement", lambda module, after: compared.append(after))
    carry_out(replace(experiment(tmp_path), method=Rewinding("first")))
    assert compared == ["first", "second", "rewind"]


def test_a_missed_target_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from paredown.results.measure import _against_target

    with caplog.at_level("WARNING", "paredown"):
        found = _against_target(Target("sparsity", 0.9), {"cost/sparsity": 0.8712})
    assert found == {"target/asked": 0.9, "target/reached": 0.8712, "target/tolerance": 0.01}
    assert "sparsity=0.9 was asked for, sparsity=0.8712 was reached" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "paredown"):
        assert _against_target(Target("speed_up", 4.0), {"cost/speed_up": 4.1})["target/reached"] == 4.1
        assert _against_target(None, {}) == {}
    assert not caplog.text


def test_a_run_records_what_was_asked_and_reached(tmp_path: Path) -> None:
    metrics = carry_out(experiment(tmp_path, "method=ssc", "sparsity=0.8")).metrics
    assert metrics["target/asked"] == 0.8 and metrics["target/reached"] == metrics["cost/sparsity"]


def test_every_row_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paredown.tracking.tracker import Tracker

    told: list[tuple[int, float]] = []
    metrics = Tracker.metrics

    def counted(self: Tracker, row: dict[str, float], step: int) -> None:
        if "train/loss" in row:
            told.append((step, row["train/loss"]))
        metrics(self, row, step)

    monkeypatch.setattr(Tracker, "metrics", counted)
    made = experiment(tmp_path, "method=ssc", "sparsity=0.8", "recipe.epochs=3")
    carry_out(made)
    assert [step for step, _ in told] == [0, 1, 2]
    told.clear()
    other = experiment(tmp_path, "method=ssc", "sparsity=0.8", "recipe.epochs=3", "latency.batch=8")
    carry_out(other)  # the same fit, from the store, for another result
    assert [step for step, _ in told] == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        *((["method=rigl", "sparsity=0.5"], ()), (["method=gradual", "sparsity=0.5", "method.period=1"], ())),
        *((["method=l1_filters", "speed_up=1.5"], ("finetune",)), (["method=obd", "sparsity=0.5"], ("finetune",))),
        *((["method=snip", "sparsity=0.5", "method.per_class=1"], ("mask_only", "finetune")),),
    ],
)
def test_a_transfer_needs_a_plan_of_the_other_data_set(
    words: list[str], modes: tuple[str, ...], tmp_path: Path
) -> None:
    other = ["dataset@transfer.dataset=digits", "transfer.dataset.fraction=0.2", "recipe.batch_size=16"]
    for mode in ("mask_only", "finetune"):
        point = experiment(tmp_path, *words, *other, f"transfer.mode={mode}")
        if mode in modes:
            assert point.steps
        else:
            with pytest.raises(
                UserError, match=rf"^transfer\.mode={mode}: \w+ decides in a training which weights stay"
            ):
                _ = point.steps


def test_a_latency_target_settles_the_number_of_threads(tmp_path: Path) -> None:
    """It is part of the widths' key: ranks and trials, with other numbers of their own, get this one."""
    words = ["method=l1_filters", "latency_speed_up=1.1"]
    for more, threads in (([], torch.get_num_threads()), (["trainer.threads=3"], 3), (["latency.threads=2"], 2)):
        point = experiment(tmp_path, *words, *more)
        assert point.latency.threads == point.settled["latency"]["threads"] == threads
        assert point.target and point.target.timing and point.target.timing.threads == threads
    assert experiment(tmp_path, "method=dense").latency.threads is None
