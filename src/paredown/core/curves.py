"""The curves of a training, and the points of a sweep, as text drawn by plotext."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from rich.table import Table
from rich.text import Text

from paredown.core.progress import Curves

HEIGHT = 14  # lines
NARROWEST, WIDEST = 30, 72  # columns of a panel
MOST = 400  # points of a curve: more than a terminal has columns
Points = list[tuple[float, float]]
_drawing = Lock()  # plotext has one figure, and two threads draw


def drawn(curves: Curves, width: int) -> Table:
    """Return the panels of `curves` side by side, as many as `width` columns have room for."""
    panels = {name: lines for name, lines in curves.items() if any(lines.values())}
    columns = max(1, min(len(panels), width // NARROWEST))
    each = max(NARROWEST, min(WIDEST, width // columns - 1))
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_row(*(_panel(f"{name} by epoch", lines, each) for name, lines in [*panels.items()][:columns]))
    return table


def scattered(title: str, groups: Mapping[str, Points], width: int) -> Text:
    """Return the points of `groups`, each by the character that draws it, on at most `width` columns."""
    return _panel(title, groups, max(NARROWEST, min(WIDEST, width)), joined=False)


def _panel(title: str, lines: Mapping[str, Points], width: int, joined: bool = True) -> Text:
    import plotext

    with _drawing:
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.limit_size(False, False)
        plotext.plot_size(width, HEIGHT)
        plotext.title(title)
        for label, points in lines.items():
            if few := thinned(points):
                x, y = zip(*few, strict=True)
                plotext.plot(x, y, label=label) if joined else plotext.scatter(x, y, marker=label)
        return Text.from_ansi(plotext.build(), no_wrap=True)


def thinned(points: Points) -> Points:
    """Return at most MOST of `points`, evenly, with the last one."""
    stride = max(1, -(-len(points) // MOST))
    return points[::-1][::stride][::-1]
