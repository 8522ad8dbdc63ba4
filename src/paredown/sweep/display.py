"""The terminal display of a running sweep: a live table, with the points so far where they are asked for, or plain
lines."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paredown.core.formatting import duration, si
from paredown.sweep.progress import Progress
from paredown.sweep.terminal import front_line, points_drawn

MAX_LISTED = 12  # running experiments in the table
POLL_SECONDS = 1.0
STATUS_SECONDS = 30.0  # between two status lines without a terminal


class Display:
    """A display of `progress` until the `with` block ends, as the sweep's progress= says: a table that moves at a
    terminal (auto), above it the points so far (plot), else lines; off: nothing. `dashboard` is the address of Ray's,
    or None."""

    def __init__(self, progress: Progress, dashboard: str | None) -> None:
        self.progress, self.dashboard, self.mode = progress, dashboard, progress.plan.progress
        self.console = Console(stderr=True)
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, name="status-lines", daemon=True)

    @property
    def _moves(self) -> bool:
        """Whether there is a table that moves."""
        return self.mode != "lines" and self.console.is_terminal

    def __enter__(self) -> Display:
        if self.mode == "off":
            return self
        if self._moves:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.mode == "off":
            return
        if self._moves:
            self._live.stop()
        else:
            self._stop.set()
            self._thread.join()

    def _table(self) -> Group:
        running = list(self.progress.running.values())
        table = Table("running", "stage", box=None, padding=(0, 2, 0, 0))
        for trial in running[:MAX_LISTED]:
            table.add_row(Text(trial.planned.label), trial.status)
        if len(running) > MAX_LISTED:
            table.add_row(f"and {len(running) - MAX_LISTED} more", "")
        head = Text(f"{self.progress.plan.sweep.name}: {status(self.progress)}", style="bold")
        more = [
            *map(_retry_line, self.progress.deaths[-1:]),
            *filter(None, (front_line(self.progress), self.dashboard)),
        ]
        picture = [points_drawn(self.progress, self.console.width)] if self.mode == "plot" else []
        return Group(head, *picture, table, *(Text(text, overflow="ellipsis", no_wrap=True) for text in more))

    def _print_lines(self) -> None:
        seen = self.progress.reused | set(self.progress.failed)
        self._print(f"{self.progress.plan.sweep.name}: {status(self.progress)}")
        quiet, deaths = 0.0, 0
        while True:
            ending = self._stop.wait(POLL_SECONDS)
            for death in self.progress.deaths[deaths:]:
                self._print(_retry_line(death))
                deaths += 1
            news = [key for key in [*self.progress.results, *self.progress.failed] if key not in seen]
            for key in news:
                self._print(_result_line(self.progress, key))
            seen |= set(news)
            quiet = 0.0 if news else quiet + POLL_SECONDS
            if quiet >= STATUS_SECONDS or (news and not ending):
                quiet = 0.0
                self._print(status(self.progress))
            if ending:
                return

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def status(progress: Progress) -> str:
    """Return the status line: `12 of 24 done (3 reused), 2 running, 0 failed, best 91.20, 12 min left`."""
    counts = f"{len(progress.results)} of {progress.total} done ({len(progress.reused)} reused)"
    stopped = [f"{len(progress.stopped)} stopped early"] if progress.stopped else []
    words = [
        counts,
        *stopped,
        f"{sum(trial.placed for trial in list(progress.running.values()))} running",
        f"{len(progress.failed)} failed",
    ]
    if progress.best is not None:
        words.append(f"best {progress.best:.2f}")
    if (left := progress.seconds_left) is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def _retry_line(death: tuple[str, str]) -> str:
    return "retrying: {}: {}".format(*death)


def _result_line(progress: Progress, key: str) -> str:
    label = progress.planned[key].label
    if key in progress.failed:
        return f"failed: {label}: {progress.failed[key]}"
    row, names = progress.results[key], progress.metrics
    figures = [f"{row[names.accuracy]:.2f}"] if names.accuracy in row else []
    figures += [f"{names.cost} {si(row[names.cost])}"] if names.cost in row else []
    return f"done: {label}: {', '.join(figures)}"
