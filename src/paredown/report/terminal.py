"""The report in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paredown.report import targets
from paredown.report.build import Report
from paredown.report.formatting import spread
from paredown.report.page import answers, cells, training_cost_summary

WIDE = 110  # characters
COLUMNS = {"cost/speed_up": "fewer MACs", "latency/speed_up": "measured"}  # of a terminal of at least WIDE


def show(report: Report, files: list[Path]) -> None:
    """Print the settings, the main findings, what is missing, and the paths of `files`."""
    console = Console()
    is_wide = console.width >= WIDE
    extra = COLUMNS if is_wide else {}
    columns = {name: head for name, head in extra.items() if name in report.runs and name != report.x.name}
    with_target = is_wide and targets.any_target(report.points)
    table = Table()
    table.add_column("setting", overflow="fold")  # the only column that folds in a narrow terminal
    for head in ("seeds", report.y.name, report.x.name):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for head in [*([targets.HEAD] if with_target else []), *columns.values()]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in report.points.iterrows():
        marks = "*" if row["front"] else " "
        words = [f"{marks} {escape(str(name))}", str(row["seeds"]), spread(row, "y"), spread(row, "x"), row["state"]]
        words += [targets.cell(row)] if with_target else []
        table.add_row(*words, *cells(report, str(name), list(columns)))
    for name, row in report.controls.iterrows():
        words = [f"  {escape(str(name))}", str(row["seeds"]), spread(row, "y"), spread(row, "x"), "control"]
        words += [""] if with_target else []
        table.add_row(*words, *cells(report, str(name), list(columns)), style="dim")
    console.print(escape(report.scope), style="bold", highlight=False)
    console.print(table)
    lines = ["* on the front of the means; ± half a 95 % t interval", *answers(report), training_cost_summary(report)]
    lines += [f"Missing: {line}" for line in report.missing]
    lines += [f"Published: {line}" for line in report.not_compared]
    lines += [f"Also on the sweep's page in MLflow: run {report.parent}"] if report.parent else []
    for line in [*lines, *map(str, files)]:
        console.print(escape(line), soft_wrap=True, highlight=False)
