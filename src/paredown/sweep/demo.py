"""A demonstration: five methods at equal training on the embedded digits, one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paredown.core import progress
from paredown.core.display import shown
from paredown.core.errors import UserError
from paredown.core.formatting import si
from paredown.run import walk
from paredown.run.terminal import speed_up, verdict

COMMON = ("dataset=digits", "model=resnet20", "recipe.precision=32", "latency.seconds=2", "progress=off")
POINTS = (
    ("method=dense",),
    ("method=l1_filters", "speed_up=3", "method.finetune.learning_rate=0.01"),  # too few epochs for its paper's rate
    ("method=slimming", "speed_up=3"),
    ("method=jaderberg", "speed_up=3", "method.finetune.epochs=80"),  # its paper's 4 would be one epoch here
    ("method=ssc", "speed_up=3"),
)


@dataclass
class Row:
    """An experiment of the demonstration: its words, and its metrics once it is done, or why there are none."""

    words: tuple[str, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    runs: bool = False

    @property
    def compresses(self) -> bool:
        """Whether it is not the dense network."""
        return "method=dense" not in self.words

    @property
    def cells(self) -> tuple[str, ...]:
        """The method, the target, the state, top-1, MACs and the measured speed."""
        named = dict(word.split("=", 1) for word in self.words)
        asked = next((f"{value}x" for key, value in named.items() if key == "speed_up"), "")
        top1, macs = (self.metrics.get(name) for name in ("final/top1", "cost/macs"))
        speed = self._speed() if self.metrics and self.compresses else ""
        figures = ("" if top1 is None else f"{top1:.2f}", "" if macs is None else si(macs), speed)
        return named["method"], asked, self._state(), *figures

    def _speed(self) -> str:
        """Return the measured speed beside the dense network's."""
        measured = speed_up(self.metrics)
        found = verdict(*measured)
        return {"as fast": "as dense", "undecided": found}.get(found, f"{measured[0]:.2f}x")

    def _state(self) -> str:
        if self.failed:
            return self.failed
        works = progress.under_way() if self.runs else []
        if works:
            return ", ".join([works[0].name, *(f"{one.name} {one.amount()}" for one in works[1:2])])
        return "done" if self.metrics else ("starts" if self.runs else "")


def demo(output: Path, images: int, points: Sequence[tuple[str, ...]] = POINTS) -> list[Row]:
    """Run the experiments of `points` with `images` each, and show them in a live table, or in lines where there is no
    terminal. What was finished is not done again. Return the rows."""
    rows = [Row(words) for words in points]
    words = [*COMMON, f"output={output}", f"budget.images={images}"]
    with _shown(rows) as console:
        for row in rows:
            row.runs = True
            _say(console, row)
            try:
                row.metrics = walk.run([*words, *row.words]).metrics
            except UserError as error:
                row.failed = str(error)
            row.runs = False
            _say(console, row)
    console.print(table(rows))
    return rows


def _say(console: Console, row: Row) -> None:
    """Print `row` as a line where there is no terminal."""
    if not console.is_terminal:
        console.print("  ".join(filter(None, row.cells)), soft_wrap=True, highlight=False, markup=False)


def table(rows: Sequence[Row]) -> Table:
    """Return the table of `rows`, the most accurate of the compressed networks in bold."""
    found = Table(title="paredown demo: ResNet-20 on digits, equal training", title_justify="left")
    for name in ("method", "fewer MACs", "state", "top-1 (%)", "MACs", "speed"):
        found.add_column(name, justify="left" if name in ("method", "state") else "right", no_wrap=True)
    best = max((row.metrics.get("final/top1", 0.0) for row in rows if row.compresses), default=0.0)
    for row in rows:
        bold = row.compresses and bool(row.metrics) and row.metrics["final/top1"] == best
        found.add_row(*(Text(cell) for cell in row.cells), style="bold" if bold else "")
    return found


@contextmanager
def _shown(rows: Sequence[Row]) -> Iterator[Console]:
    console = Console()
    if not console.is_terminal:
        with shown("lines"):
            yield console
        return
    with Live(get_renderable=lambda: table(rows), console=console, refresh_per_second=4, transient=True):
        yield console


def opened(page: Path) -> bool:
    """Open `page` in a browser; return whether there is one."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if isinstance(browser, webbrowser.GenericBrowser) and not isinstance(browser, webbrowser.BackgroundBrowser):
        return False  # one of the terminal, as lynx
    return browser.open(page.resolve().as_uri())
