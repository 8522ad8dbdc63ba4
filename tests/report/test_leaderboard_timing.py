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
from paredown.core.errors import UserError
from paredown.report.conditions import tags
from paredown.report.request import Request
from paredown.report.runs import Recorded

PLAIN = tags([1], 2, "plain", "cpu", True)
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
    table = pandas.DataFrame(rows).assign(bench=[{}] * len(rows), **{script.TIMED: [1.0, *[None] * (len(rows) - 1)]})
    monkeypatch.setattr(script, "read", lambda request, debug: Recorded(table, []))
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


def test_what_was_timed_under_other_conditions_is_timed_again(script, benched, request_of, monkeypatch) -> None:
    before = script.read(request_of, debug=False).runs
    monkeypatch.setattr(script, "read", lambda request, debug: Recorded(before.assign(bench=[PLAIN] * len(before)), []))
    script.time_settings(request_of, again=False)
    assert benched[:2] == ["before-0", "new-0"]


def test_a_board_has_no_times_of_other_conditions_and_no_debug_runs(script, make_records) -> None:
    records, sweep = make_records(), {"sweep": "some"}
    records.experiment("dense", 0, 91.0, tags=sweep, bench__ms_b1=3.0)
    records.experiment("dense", 1, 91.0, tags=sweep | tags([1], 1, "auto", "cpu", True), bench__ms_b1=3.5)
    plain = tags([1], 2, "plain", "cpu", True) | tags([32], 1, "auto", "cpu", True)  # of two benches
    records.experiment("ssc", 0, 90.0, 2, tags=sweep | plain, bench__ms_b1=1.0, bench__ms_b32=9.0)
    records.experiment("ssc", 1, 12.0, 2, tags=sweep | {"debug": "fast"})
    found = script._read(Request(sweep="some", uri=records.uri))
    times = found.runs.set_index("name")["bench/ms_b1"].dropna()
    assert times.to_dict() == {"dense-0": 3.0, "dense-1": 3.5} and len(found.runs) == 3
    assert found.runs["bench/ms_b32"].dropna().tolist() == [9.0]
    assert "debug runs left out: 1" in found.missing
    assert "runs with times of other conditions than threads=1 deploy=auto, left out: 1" in found.missing
    only = Request(runs=(records.experiment("ssc", 2, 12.0, 4, tags={"debug": "fast"}),), uri=records.uri)
    with pytest.raises(UserError, match="has only debug runs, whose numbers mean nothing"):
        script._read(only)


def test_a_sweep_without_a_name_is_one_line(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", "--sweep", ""])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


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
