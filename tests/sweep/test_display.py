"""What a person sees while a sweep runs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from paredown.sweep import display
from paredown.sweep.display import Display
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import load


def test_the_table_tells_what_runs_what_is_next_the_front_and_where_the_dashboard_is(written) -> None:
    progress = Progress(plan(load([*written("seeds: [0, 1, 2]\n"), "tracking=off"])))
    first, second = progress.waiting[:2]
    first = replace(first, label="layers=[/a]")  # no markup of rich's
    trial = progress.submit(first)
    progress.submit(second)
    trial.placed = True
    progress.record_epoch(trial, {"stage": "train", "epoch": 1, "epochs": 2, "images": 70, "key": first.missing[0].key})
    progress.results |= {"x": {"final/top1": 90.0, "cost/macs": 5e6}, "y": {"final/top1": 80.0, "cost/macs": 2e6}}
    progress.fail(progress.waiting[0], "ValueError: too large")
    console = Console(width=120, record=True)
    console.print(Display(progress, "http://127.0.0.1:8265")._table())
    lines = console.export_text().splitlines()
    assert lines[0].startswith("tiny: 2 of 3 done (0 reused), 1 running, 1 failed, best 90.00, ")
    assert [line.split() for line in lines[2:4]] == [["layers=[/a]", "train", "1/2"], ["seed=1", "next"]]
    assert lines[4:6] == ["front: 2M 80.00  5M 90.00", "http://127.0.0.1:8265"]


def test_a_process_that_died_is_told_and_its_experiment_is_at_its_next_try(written, capsys) -> None:
    progress = Progress(plan(load([*written(""), "tracking=off"])))
    (planned,) = progress.waiting
    trial = progress.submit(planned)
    trial.placed = True
    progress.record_epoch(
        trial, {"stage": "train", "epoch": 1, "epochs": 2, "images": 70, "key": planned.missing[0].key}
    )
    with Display(progress, None) as display:
        progress.retry(trial, "its process died; out of memory")
    console = Console(width=120, record=True)
    console.print(display._table())
    assert f"retrying: {planned.label}: its process died" in console.export_text()
    assert trial.status == "next, try 2" and f"retrying: {planned.label}: its process died" in capsys.readouterr().err


@pytest.fixture
def shown_at(written, monkeypatch) -> Callable[[str, bool], tuple[str, str]]:
    """Return what a sweep of one experiment shows at a terminal or elsewhere: what moves at its end, and what stays."""

    def show(word: str, terminal: bool) -> tuple[str, str]:
        stream = io.StringIO()
        made = Console(file=stream, force_terminal=terminal, width=100)
        monkeypatch.setattr(display, "Console", lambda stderr: made)
        progress = Progress(plan(load([*written(""), "tracking=off", *([word] if word else [])])))
        progress.results |= {"x": {"final/top1": 90.0, "cost/macs": 5e6}, "y": {"final/top1": 80.0, "cost/macs": 2e6}}
        progress.results["z"] = {"final/top1": 70.0, "cost/macs": 4e6}
        with Display(progress, None) as shown:
            table = Console(width=100, record=True, file=io.StringIO())
            table.print(shown._table())
        return table.export_text(), stream.getvalue()

    return show


def test_progress_of_a_sweep_is_a_table_lines_a_picture_or_nothing(shown_at) -> None:
    moving, status = "\x1b[?25l", "tiny: 3 of 1 done"
    for word in ("", "progress=auto", "progress=true"):
        assert moving in shown_at(word, True)[1] and "┤" not in shown_at(word, True)[0]
        assert shown_at(word, False)[1].startswith(status)
    picture, said = shown_at("progress=plot", True)
    assert moving in said and "final/top1 over cost/macs (M), * on the front" in picture
    assert (
        sum("*" in line for line in picture.splitlines() if "┤" in line or "│" in line) == 2 and "front: 2M" in picture
    )
    said = shown_at("progress=lines", True)[1]
    assert moving not in said and said.startswith(status)
    assert [shown_at(word, at)[1] for word in ("progress=off", "progress=false") for at in (True, False)] == [""] * 4
