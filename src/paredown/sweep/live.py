"""A sweep at the terminal while it runs: a table that redraws itself, or plain lines where nobody sees it."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paredown.sweep.board import Board
from paredown.sweep.tables import big, front_line

LISTED = 12  # running experiments that the table names
BEAT = 1.0
HEARTBEAT = 60.0  # seconds between two status lines where there is no terminal


class Display:
    """Shows `board` until the `with` block ends. `link` is the address of Ray's dashboard, or None."""

    def __init__(self, board: Board, link: str | None) -> None:
        self.board, self.link = board, link
        self.console = Console(stderr=True)
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._lines, name="lines", daemon=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()
        else:
            self._stop.set()
            self._thread.join()

    def _table(self) -> Group:
        running = list(self.board.running.values())
        table = Table("running", "stage", box=None, padding=(0, 2, 0, 0))
        for run in running[:LISTED]:
            table.add_row(Text(run.planned.label), run.doing)
        if len(running) > LISTED:
            table.add_row(f"and {len(running) - LISTED} more", "")
        head = Text(f"{self.board.plan.sweep.name}: {status(self.board)}", style="bold")
        more = [*map(_again, self.board.deaths[-1:]), *filter(None, (front_line(self.board), self.link))]
        return Group(head, table, *(Text(text, overflow="ellipsis", no_wrap=True) for text in more))

    def _lines(self) -> None:
        seen = self.board.reused | set(self.board.failed)
        self._print(f"{self.board.plan.sweep.name}: {status(self.board)}")
        quiet, deaths = 0.0, 0
        while True:
            ending = self._stop.wait(BEAT)
            for death in self.board.deaths[deaths:]:
                self._print(_again(death))
                deaths += 1
            news = [key for key in [*self.board.results, *self.board.failed] if key not in seen]
            for key in news:
                self._print(_line(self.board, key))
            seen |= set(news)
            quiet = 0.0 if news else quiet + BEAT
            if quiet >= HEARTBEAT or (news and not ending):
                quiet = 0.0
                self._print(status(self.board))
            if ending:
                return

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def status(board: Board) -> str:
    """`12 of 24 done (3 reused), 2 running, 0 failed, best 91.20, 12 min left`."""
    counts = f"{len(board.results)} of {board.total} done ({len(board.reused)} reused)"
    stopped = [f"{len(board.stopped)} stopped early"] if board.stopped else []
    words = [
        counts,
        *stopped,
        f"{sum(run.placed for run in list(board.running.values()))} running",
        f"{len(board.failed)} failed",
    ]
    if board.best is not None:
        words.append(f"best {board.best:.2f}")
    if (left := board.seconds_left) is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _again(death: tuple[str, str]) -> str:
    return "again: {}: {}".format(*death)


def _line(board: Board, key: str) -> str:
    label = board.planned[key].label
    if key in board.failed:
        return f"failed: {label}: {board.failed[key]}"
    row, names = board.results[key], board.metrics
    figures = [f"{row[names.accuracy]:.2f}"] if names.accuracy in row else []
    figures += [f"{names.cost} {big(row[names.cost])}"] if names.cost in row else []
    return f"done: {label}: {', '.join(figures)}"
