"""The plan of a sweep: what is shared, what the store has, and that looking at it starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paredown import execute
from paredown.sweep.file import load
from paredown.sweep.planning import plan
from paredown.sweep.tables import summary

SWEEP = Path(__file__).parents[2] / "src" / "sweep.py"
SHARED = "grid: {latency.batch: [1, 2, 4]}\nseeds: [0, 1]\n"


def test_what_is_shared_is_counted_once(written) -> None:
    planned = plan(load(written(SHARED)))
    assert len(planned.experiments) == 6 and planned.images_alone == 3 * planned.images_shared
    assert [(level.name, level.trains, level.distinct, level.stored) for level in planned.levels] == [
        ("train", True, 2, 0)
    ]
    assert summary(planned).startswith("6 experiments (0 finished), 2 distinct trainings (0 stored), 4 reused: 3.00x")


def test_what_the_store_has_is_not_planned_again(written) -> None:
    planned = plan(load([*written(SHARED), "tracking=off"]))
    execute.carry_out(planned.experiments[0].experiment)
    again = plan(planned.sweep)
    assert [p.finished for p in again.experiments] == [True] + [False] * 5
    assert [len(p.missing) for p in again.experiments] == [0, 0, 0, 1, 1, 1]
    assert again.levels[0].stored == 1


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


def test_help_names_the_sweeps() -> None:
    ended = subprocess.run([sys.executable, str(SWEEP), "--help"], capture_output=True, text=True, check=True)
    assert ended.stdout.count("python src/sweep.py") >= 8 and "ssc_table1_resnet32" in ended.stdout
