"""The timing of the leaderboard's settings: what is timed, and what happens where one cannot be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas
import pytest

from paredown.core import interrupt
from paredown.report.request import Request

SCRIPT = Path(__file__).parents[2] / "scripts" / "leaderboard.py"


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    monkeypatch.setattr(interrupt, "install", lambda: None)
    spec = importlib.util.spec_from_file_location("leaderboard_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def request_of(tmp_path) -> Request:
    return Request(sweep="some", output=tmp_path)


@pytest.fixture
def benched(script, monkeypatch, request_of) -> list[str]:
    """The runs that a bench was asked for, of: a setting timed before, a new one, one whose seed 0 is lost, one lost
    altogether, one beside which other things ran, and a control."""
    names = ("before", "new", "half", "lost", "loud")
    rows = [{"setting": name, "seed": str(s), "run_id": f"{name}-{s}", "control": ""} for name in names for s in (1, 0)]
    rows += [{"setting": "new control=random", "seed": "0", "run_id": "control", "control": "random"}]
    table = pandas.DataFrame(rows).assign(**{script.TIMED: [1.0, *[None] * (len(rows) - 1)]})
    monkeypatch.setattr(script, "read", lambda request: SimpleNamespace(runs=table))
    asked: list[str] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        words = dict(word.split("=", 1) for word in command[2:])
        asked.append(words["run"])
        if words["run"] in ("half-0", "lost-0", "lost-1"):
            return SimpleNamespace(returncode=2)
        folder = Path(words["folder"])
        folder.mkdir(parents=True)
        (folder / "bench.json").write_text(json.dumps({"is_quiet": "loud" not in words["run"]}))
        assert words["threads"] == "1" and words["batch"] == "[1,32]"
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(script.subprocess, "run", run)
    return asked


def test_a_setting_that_cannot_be_timed_does_not_stop_the_others(script, benched, request_of, capsys) -> None:
    doubts = script.time_settings(request_of, again=False)
    assert doubts == ["lost cannot be", "loud while other things ran"]
    assert benched == ["new-0", "half-0", "half-1", "lost-0", "lost-1", "loud-0"]  # another seed where one is lost
    assert "timing 4 of 4: loud" in capsys.readouterr().out


def test_all_are_timed_again_with_the_run_that_was(script, benched, request_of) -> None:
    script.time_settings(request_of, again=True)
    assert benched[:2] == ["before-1", "new-0"]


@pytest.mark.parametrize("code", [interrupt.INTERRUPTED, -2])
def test_a_bench_that_is_interrupted_stops_the_rest(code: int, script, benched, request_of, monkeypatch) -> None:
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    with pytest.raises(KeyboardInterrupt):
        script.time_settings(request_of, again=False)


def test_the_page_is_written_where_nothing_could_be_timed(script, recorded, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=2))
    words = ["--sweep", "whole", "--uri", recorded.uri, "--output", str(tmp_path), "--folder", str(tmp_path), "--time"]
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", *words])
    with pytest.raises(SystemExit) as ended:
        script.main()
    said = capsys.readouterr()
    assert ended.value.code == 1 and len(said.err.splitlines()) == 1
    assert "timed badly: " in said.err and said.err.count(" cannot be") == 3
    assert "Missing: settings and seeds recorded twice, the last is shown: 1" in said.out
    assert "Missing: runs not shown: 1 failed" in said.out
    assert {path.name for path in tmp_path.glob("leaderboard*")} == {
        *("leaderboard.csv", "leaderboard_settings.json"),
        *("leaderboard.md", "leaderboard.png", "leaderboard_macs.png"),
    }
