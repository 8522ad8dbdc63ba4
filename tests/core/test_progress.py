"""What runs, as a person sees it: bars at a terminal, lines elsewhere, curves where they are asked for."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from paredown.core import display, progress
from paredown.core.curves import drawn, thinned
from paredown.core.display import Bars, Lines, bars, shown
from paredown.core.progress import Work


def text(what: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    yield now


def test_the_pace_and_the_time_left_are_of_this_process(clock: list[float]) -> None:
    work = Work("epoch 7", total=400, done=100)
    clock[0] += 20
    work.advance(50, images=6400)
    assert work.left == pytest.approx(100)  # 250 of 400 to go, 50 of them in 20 s
    assert work.line() == "epoch 7: 150/400 batches, 320 images/s, 2 min left"


def test_of_unknown_length_the_time_so_far_is_shown(clock: list[float]) -> None:
    work = Work("stage 3 of 5: sparsify")
    clock[0] += 720
    assert work.left is None and work.line() == "stage 3 of 5: sparsify: 12 min so far"


def test_a_work_ends_with_what_was_entered_within_it_and_whatever_happens() -> None:
    outer = progress.begin(Work("outer"))
    with pytest.raises(ValueError), progress.working_on("inner"):
        assert [work.name for work in progress.under_way()] == ["outer", "inner"]
        progress.begin(Work("left open"))
        raise ValueError
    assert progress.under_way() == [outer]
    progress.ended(outer)
    progress.ended(outer)
    assert progress.under_way() == []


def test_batches_are_counted_as_they_are_taken_and_the_loop_may_break() -> None:
    seen = []
    for images, _ in progress.passed([("ab", 0), ("cd", 0), ("e", 0)], "scoring", most=2):
        (work,) = progress.under_way()
        seen.append((images, work.done, work.images, work.total))
        if len(seen) == 2:
            break
    assert seen == [("ab", 0, 0, 2), ("cd", 1, 2, 2)] and progress.under_way() == []
    assert list(progress.each([1, 2], "search")) == [1, 2] and progress.under_way() == []


def test_lines_come_at_their_interval_without_being_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(Console(stderr=True, width=40), seconds=0.05)
    with progress.heard_by(lines), lines, progress.working_on("stage 1 of 2: train"):
        progress.tell("epoch 1/3  loss 0.500")
        with progress.working_on("epoch 2", 10, "batches") as work:
            work.advance(4, 512)
            time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "stage 1 of 2: train: epoch 1/3  loss 0.500"
    assert said[1].startswith("stage 1 of 2: train: 0 s so far; epoch 2: 4/10 batches, ") and "images/s" in said[1]
    assert 2 < len(said) < 8


def test_bars_have_a_row_for_each_work() -> None:
    with progress.working_on("stage 3 of 5: sparsify"), progress.working_on("epoch 4", 391, "batches") as work:
        work.advance(128, 16384)
        rows = text(bars(progress.under_way())).splitlines()
    assert rows[0].startswith("stage 3 of 5: sparsify") and "so far" in rows[0]
    assert rows[1].startswith("  epoch 4") and "128/391 batches" in rows[1] and "s left" in rows[1]


def test_a_message_is_not_written_into_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that logging made before goes through the live display, and back to the stream after it."""
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        with Bars(Console(file=stream, force_terminal=True, width=80)):
            assert handler.stream is not stream and handler.stream is sys.stderr
        assert handler.stream is stream
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize(
    ("mode", "terminal", "kind", "curves"),
    [
        ("auto", True, Bars, False),
        ("plot", True, Bars, True),
        ("lines", True, Lines, None),
        ("plot", False, Lines, None),
    ],
)
def test_the_display_of_a_mode(
    mode: progress.Mode, terminal: bool, kind: type, curves: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "Console", lambda stderr: Console(file=io.StringIO(), force_terminal=terminal))
    found = display.display_of(mode)
    assert type(found) is kind and getattr(found, "curves", None) is curves


def test_off_shows_nothing_and_within_a_display_none_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("off"):
        assert not progress.heard()
        progress.tell("nobody hears this")
    with shown("lines"), shown("lines"):
        progress.tell("once")
        assert progress.heard()
    assert not progress.heard() and capsys.readouterr().err == "once\n"


def test_curves_are_drawn_side_by_side_as_far_as_there_is_room() -> None:
    loss, top1 = [(1.0, 2.0), (2.0, 1.0)], [(1.0, 50.0), (2.0, 75.0)]
    curves = {"loss": {"train": loss, "val": []}, "top-1 (%)": {"val": top1}}
    both = text(drawn(curves, 120))
    assert "loss by epoch" in both and "top-1 (%) by epoch" in both and "75.0" in both and "2.00" in both
    assert max(map(len, both.splitlines())) <= 120
    assert "top-1" not in text(drawn(curves, 59)) and "loss by epoch" in text(drawn(curves, 59))
    assert text(drawn(curves, 120)) == both  # nothing of an earlier figure stays


def test_many_points_are_thinned_and_the_last_one_stays() -> None:
    points = [(float(x), 0.0) for x in range(1001)]
    assert len(thinned(points)) <= 400 and thinned(points)[-1] == points[-1] and thinned(points[:3]) == points[:3]
