"""What a person sees while a sweep runs."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from paredown.sweep.board import Board
from paredown.sweep.file import load
from paredown.sweep.live import Display
from paredown.sweep.planning import plan


def test_the_table_tells_what_runs_what_is_next_the_front_and_where_the_dashboard_is(written) -> None:
    board = Board(plan(load([*written("seeds: [0, 1, 2]\n"), "tracking=off"])))
    first, second = board.waiting[:2]
    first = replace(first, label="layers=[/a]")  # no markup of rich's
    run = board.start(first)
    board.start(second)
    run.placed = True
    board.tell(run, {"stage": "train", "epoch": 1, "epochs": 2, "images": 70, "key": first.missing[0].key})
    board.results |= {"x": {"final/top1": 90.0, "cost/macs": 5e6}, "y": {"final/top1": 80.0, "cost/macs": 2e6}}
    board.fail(board.waiting[0], "ValueError: too large")
    console = Console(width=120, record=True)
    console.print(Display(board, "http://127.0.0.1:8265")._table())
    lines = console.export_text().splitlines()
    assert lines[0].startswith("tiny: 2 of 3 done (0 reused), 1 running, 1 failed, best 90.00, ")
    assert [line.split() for line in lines[2:4]] == [["layers=[/a]", "train", "1/2"], ["seed=1", "next"]]
    assert lines[4:6] == ["front: 2M 80.00  5M 90.00", "http://127.0.0.1:8265"]


def test_a_process_that_died_is_told_and_its_experiment_is_at_its_next_try(written, capsys) -> None:
    board = Board(plan(load([*written(""), "tracking=off"])))
    (planned,) = board.waiting
    run = board.start(planned)
    run.placed = True
    board.tell(run, {"stage": "train", "epoch": 1, "epochs": 2, "images": 70, "key": planned.missing[0].key})
    with Display(board, None) as display:
        board.retry(run, "its process died; out of memory")
    console = Console(width=120, record=True)
    console.print(display._table())
    assert f"again: {planned.label}: its process died" in console.export_text()
    assert run.doing == "next, try 2" and f"again: {planned.label}: its process died" in capsys.readouterr().err
