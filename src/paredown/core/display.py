"""The displays of what runs: bars and curves that move at a terminal, a line each half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from paredown.core import progress
from paredown.core.curves import drawn
from paredown.core.progress import Mode, Work

REFRESHES = 4  # of a moving display, a second
LINE_SECONDS = 30.0  # between two lines
BAR_WIDTH = 20


class Display(ABC):
    """A display on `console` while its `with` block runs."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @abstractmethod
    def __enter__(self) -> Display: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def tell(self, line: str) -> None:  # noqa: B027 (a moving display shows it all the time)
        """Print `line`, where there are lines only."""

    def closing(self, work: Work) -> None:  # noqa: B027
        """Print what stays of `work`, which ends."""

    def _print(self, what: RenderableType) -> None:
        self.console.print(what, soft_wrap=True, highlight=False, markup=False)


class Bars(Display):
    """A bar for each piece of work that runs, and with `curves` those of the training."""

    def __init__(self, console: Console, curves: bool = False) -> None:
        super().__init__(console)
        self.curves = curves
        self._live = Live(
            get_renderable=self.picture,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed into a file would come here
        )
        self._moved: list[logging.StreamHandler[Any]] = []

    def __enter__(self) -> Display:
        stream = sys.stderr
        self._live.start()
        found = (handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler))
        self._moved = [handler for handler in found if handler.stream is stream]
        self._stream = stream
        for handler in self._moved:
            handler.setStream(sys.stderr)  # what Live put there: else a message would be written into the bars
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handler in self._moved:
            handler.setStream(self._stream)
        self._live.stop()

    def picture(self) -> Group:
        """Return what is on the terminal now."""
        works = progress.under_way()
        above = [drawn(work.curves, self.console.width) for work in works if self.curves and work.curves]
        return Group(*above, bars(works))

    def closing(self, work: Work) -> None:
        """Leave the curves of a training on the terminal."""
        if self.curves and work.curves:
            self._print(drawn(work.curves, self.console.width))


class Lines(Display):
    """A line each half minute, and what is told."""

    def __init__(self, console: Console, seconds: float = LINE_SECONDS) -> None:
        super().__init__(console)
        self.seconds = seconds
        self._said = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress-lines", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def tell(self, line: str) -> None:
        """Print `line`, before the name of the stage that it is of."""
        outermost = progress.under_way()[:1]
        self._print(" ".join([f"{work.name}:" for work in outermost] + [line]))
        self._said = time.monotonic()

    def _speak(self) -> None:
        while not self._stop.wait(max(0.0, self._said + self.seconds - time.monotonic())):
            if time.monotonic() - self._said >= self.seconds:
                if works := progress.under_way():
                    self._print("; ".join(work.line() for work in works))
                self._said = time.monotonic()


def bars(works: list[Work]) -> Table:
    """Return a row for each of `works`: the name, a bar, what is done, the pace, the time left and the figures."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for depth, work in enumerate(works):
        bar = ProgressBar(work.total, work.done, width=BAR_WIDTH, pulse=work.total is None)
        name = Text(f"{'  ' * bool(depth)}{work.name}", style="" if depth else "bold", no_wrap=True)
        table.add_row(name, bar, Text(work.amount(), no_wrap=True), Text("  ".join(work.details()), no_wrap=True))
    return table


@contextmanager
def shown(mode: Mode) -> Iterator[None]:
    """Show what runs inside the `with` block on the standard error stream, unless something shows it already."""
    if mode == "off" or progress.heard():
        yield
        return
    display = display_of(mode)
    with progress.heard_by(display), display:
        yield


def display_of(mode: Mode) -> Display:
    """Return the display of `mode` for the standard error stream: lines where nothing can move on it."""
    console = Console(stderr=True)
    moves = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return Bars(console, mode == "plot") if moves and mode != "lines" else Lines(console)
