"""`channels_last=auto` is what a step of the network takes on this machine, once for all that share an output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.files import user_cache
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.store.states import Store, open_store
from paredown.training import decisions, memory_layout, timed_step
from paredown.training.decisions import begin
from paredown.training.memory_layout import LAYOUT, decide_layout
from paredown.training.timed_step import Step

CPU, NAMES = torch.device("cpu"), LAYOUT.names
RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
STEP = Step.of(RESNET, (1, 8, 8), 16, channels_last=True)


@pytest.fixture(autouse=True)
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that are timed from here on, NCHW as the faster; nothing is known to this process or in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timed_step, "TIMED", {})
    decisions._tell.cache_clear()
    steps: list[Step] = []
    times = {NAMES[True]: 2.0, NAMES[False]: 1.0}
    monkeypatch.setattr(memory_layout, "measure", lambda step, *_: (steps.append(step), times)[1])
    return steps


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def experiment(tmp_path: Path, layout: str) -> Experiment:
    words = ["dataset=digits", "model=resnet20", "model.depth=8", f"output={tmp_path / 'out'}", "tracking=off"]
    return prepare(
        compose([*words, "recipe.precision=32", "trainer.accelerator=cpu", f"recipe.channels_last={layout}"])
    )


def test_the_faster_layout_is_taken_and_timed_once_a_machine(store: Store, timed: list[Step]) -> None:
    found = decide_layout(STEP, "32", CPU, None, store)
    assert not found.value and "2000.0 ms in channels-last and 1000.0 ms in NCHW" in found.why
    timed_step.TIMED.clear()  # another process
    assert decide_layout(STEP, "32", CPU, None, store) == found
    assert len(timed) == 1 and len(list(user_cache().glob("layout-*.json"))) == 1
    decide_layout(STEP, "bf16", CPU, None, store)
    assert len(timed) == 2


def test_channels_last_is_left_for_a_clear_gain_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_layout, "measure", lambda *_: {NAMES[True]: 1.0, NAMES[False]: 0.96})
    assert decide_layout(STEP, "32", CPU, None, store).value


def test_a_step_that_cannot_run_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(memory_layout, "measure", fails)
    found = decide_layout(STEP, "32", CPU, None, store)
    assert found.value and found.why.endswith("cannot be timed (out of memory)")


def test_an_output_goes_on_as_it_began(store: Store, timed: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    assert begin(decide_layout(STEP, "32", CPU, None, store), store) is False
    timed_step.TIMED.clear()
    monkeypatch.setattr(memory_layout, "measure", lambda *_: pytest.fail("it has begun"))
    assert decide_layout(STEP, "32", CPU, None, store).why.startswith("NCHW, as this output has begun")
    path = next((store.root / "decisions").glob("layout-32-*.json"))
    path.write_text(json.dumps({"channels_last": "perhaps", "why": ""}))
    for kept in user_cache().glob("layout-*.json"):
        kept.unlink()
    monkeypatch.setattr(memory_layout, "measure", lambda *_: {NAMES[True]: 1.0, NAMES[False]: 3.0})
    assert decide_layout(STEP, "32", CPU, None, store).value  # damaged: decided anew


def test_it_arrives_in_the_fits_and_the_record_and_changes_no_key(tmp_path: Path, timed: list[Step]) -> None:
    found, asked = experiment(tmp_path, "auto").begun(), experiment(tmp_path, "true")
    assert timed and not found.recipe.channels_last and asked.recipe.channels_last
    assert not found.steps[-1].stage.recipe.channels_last  # type: ignore[union-attr]
    assert found.settled["recipe"]["channels_last"] is False
    assert [step.key for step in found.steps] == [step.key for step in asked.steps]


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^recipe\.channels_last="):
        experiment(tmp_path, "nchw")


def test_a_step_is_timed_in_both_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = torch.random.get_rng_state()
    times = memory_layout.measure(STEP, "32", CPU)
    assert set(times) == {*NAMES.values()} and all(seconds > 0 for seconds in times.values())
    assert torch.equal(before, torch.random.get_rng_state())
