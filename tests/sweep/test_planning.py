"""The plan of a sweep: what is shared, what the store has, and that looking at it starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.experiment.prepare import prepare
from paredown.methods.filters.pruning import PruneChannels
from paredown.run import walk
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import load
from paredown.sweep.terminal import summary
from paredown.sweep.worker import trial_spec

SWEEP = Path(__file__).parents[2] / "src" / "sweep.py"
SHARED = "grid: {latency.batch: [1, 2, 4]}\nseeds: [0, 1]\n"


def test_what_is_shared_is_counted_once(written) -> None:
    planned = plan(load(written(SHARED)))
    assert len(planned.experiments) == 6 and planned.images_unshared == 3 * planned.images_shared
    assert [(level.name, level.trains, level.distinct, level.stored) for level in planned.stage_counts] == [
        ("train", True, 2, 0)
    ]
    assert summary(planned).startswith("6 experiments (0 finished), 2 distinct trainings (0 stored), 4 reused: 3.00x")


MIXED = """
grid: {method: [ssc, l1_filters], recipe.learning_rate: [0.1, 0.05], sparsity: [0.6]}
seeds: [0, 1]
"""


def test_shared_plans_are_those_that_are_made_alone(written) -> None:
    words = written(MIXED)
    found = plan(load([*words, "model.depth=8"])).experiments
    assert len(found) == 8
    for one in found:
        alone = prepare(compose([*one.overrides, "trainer.accelerator=cpu"]))
        assert [step.key for step in one.experiment.steps] == [step.key for step in alone.steps]
        assert one.experiment.key == alone.key and one.experiment.folder == alone.folder


def test_a_plan_is_made_once_for_all_seeds_and_a_method_checked_once(written, monkeypatch) -> None:
    events: list[str] = []
    for name, method in (("plan", PruneChannels.plan), ("check", PruneChannels.check)):

        def counted(self, *rest, name=name, method=method):
            events.append(name)
            return method(self, *rest)

        monkeypatch.setattr(PruneChannels, name, counted)
    words = [*written("grid: {recipe.learning_rate: [0.1, 0.05]}\nseeds: [0, 1, 2]"), "model.depth=8"]
    assert len(plan(load([*words, "method=l1_filters", "speed_up=1.5"])).experiments) == 6
    assert events == ["check", "plan", "plan"]


@pytest.mark.parametrize(
    ("grid", "label", "reason"),
    [
        ("{sparsity: [0.5, 0.9999]}", "sparsity=0.9999", "reach"),
        ("{recipe.batch_size: [32, 0]}", "recipe.batch_size=0", "recipe.batch_size=0"),
        ("{seed: [0, -1]}", "seed=-1", "seed=-1"),
        ("{method.round_to: [1, 2.5]}", "method.round_to=2.5", "method.round_to=2.5"),
    ],
)
def test_what_is_wrong_with_a_later_experiment_is_refused_under_its_label(written, grid, label, reason) -> None:
    words = [*written(f"grid: {grid}"), "model.depth=8", "method=l1_filters"]
    with pytest.raises(UserError) as raised:
        plan(load(words if "sparsity" in grid else [*words, "sparsity=0.5"]))
    assert str(raised.value).startswith(f"{label}: ") and reason in str(raised.value)


def test_what_the_store_has_is_not_planned_again(written) -> None:
    planned = plan(load([*written(SHARED), "tracking=off"]))
    walk.carry_out(planned.experiments[0].experiment)
    again = plan(planned.sweep)
    assert [p.finished for p in again.experiments] == [True] + [False] * 5
    assert [len(p.missing) for p in again.experiments] == [0, 0, 0, 1, 1, 1]
    assert again.stage_counts[0].stored == 1


def test_experiments_made_the_same_by_the_command_line_are_one(written) -> None:
    assert len(plan(load([*written(SHARED), "latency.batch=8"])).experiments) == 2


def test_looking_at_the_plan_starts_nothing(written, tmp_path) -> None:
    code = (
        "import atexit, runpy, sys; sys.argv = ['sweep.py', *sys.argv[1:]]\n"
        "heavy = ('ray', 'mlflow', 'pytorch_lightning', 'torchvision')\n"
        "atexit.register(lambda: print('HEAVY', [name for name in heavy if name in sys.modules]))\n"
        f"runpy.run_path({str(SWEEP)!r}, run_name='__main__')"
    )
    words = written(SHARED)
    shown = subprocess.run([sys.executable, "-c", code, *words, "--plan"], capture_output=True, text=True, check=True)
    assert "2 distinct trainings" in shown.stdout and "HEAVY []" in shown.stdout
    assert not list((tmp_path / "out").rglob("stage.json")) and not (tmp_path / "out" / "sweeps").exists()


def test_a_mistake_ends_with_exit_code_2(written) -> None:
    words = written("grid: {sparcity: [1]}")
    ended = subprocess.run([sys.executable, str(SWEEP), *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == "" and len(ended.stderr.splitlines()) == 1


def test_a_metric_that_no_run_records_ends_with_exit_code_2(written) -> None:
    words = written("metrics: {accuracy: final/topp1}")
    ended = subprocess.run([sys.executable, str(SWEEP), *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == "" and len(ended.stderr.splitlines()) == 1


def test_a_metric_that_no_finished_run_had_is_named(written) -> None:
    words = ["stop.rule=median", "stop.metric=mine/x", "metrics.accuracy=mine/y"]
    progress = Progress(plan(load([*written(SHARED), *words])))
    assert progress.unrecorded == []  # nothing is finished yet
    first, second = list(progress.planned)[:2]
    progress.results[first] = {"cost/macs": 1.0}
    trial = progress.submit(progress.planned[second])
    progress.record_epoch(trial, {"stage": "train", "epoch": 1, "epochs": 2, "images": 70, "val/top1": 9.0})
    assert progress.unrecorded == ["metrics.accuracy=mine/y", "stop.metric=mine/x"]
    progress.results[second] = {"mine/y": 1.0}
    progress.reported.add("mine/x")
    assert progress.unrecorded == []


def test_help_names_the_sweeps() -> None:
    ended = subprocess.run([sys.executable, str(SWEEP), "--help"], capture_output=True, text=True, check=True)
    assert ended.stdout.count("python src/sweep.py") >= 8 and "ssc_table1_resnet32" in ended.stdout


@pytest.mark.parametrize(
    ("more", "ranks"),
    [(["resources.workers=2"], 2), (["resources.workers=3", "resources.across_nodes=true"], 3)],
)
def test_a_stage_has_the_key_that_its_ranks_give_it(written, more: list[str], ranks: int) -> None:
    """What is planned is looked for under the key under which the workers store it."""
    alone, several = (plan(load([*written(SHARED), *words])) for words in ([], more))
    planned = several.experiments[0]
    assert planned.experiment.machine.ranks == ranks
    spec = trial_spec(planned, several.sweep.resources, "me")
    again = prepare(spec["config"])
    assert [step.key for step in again.steps] == [step.key for step in planned.experiment.steps]
    assert again.steps[-1].key != alone.experiments[0].experiment.steps[-1].key


def test_a_rule_that_stops_by_held_out_images_needs_some(written) -> None:
    words = [*written(SHARED), "stop.rule=asha"]
    assert plan(load(words)).experiments
    with pytest.raises(
        UserError, match=r"stop\.metric=val/top1: dataset=digits holds out no images, set dataset\.valid"
    ):
        plan(load([*words, "dataset.validation=0"]))
    assert plan(load([*words, "dataset.validation=0", "stop.metric=test/top1"])).experiments
