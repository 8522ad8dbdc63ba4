"""The report's table in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paredown.report.build import Report
from paredown.report.page import answers, cells, price_words
from paredown.report.words import spread

COLUMNS = {"cost/speed_up": "fewer MACs", "latency/speed_up": "measured"}  # in a wide terminal
WIDE = 110


def show(report: Report, files: list[Path]) -> None:
    """Print the settings, the answers, what is missing, and where the files are."""
    console = Console()
    extra = COLUMNS if console.width >= WIDE else {}
    columns = {name: head for name, head in extra.items() if name in report.runs and name != report.x.name}
    table = Table()
    table.add_column("setting", overflow="fold")  # alone gives way in a narrow terminal
    for head in ("seeds", report.y.name, report.x.name):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for head in columns.values():
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in report.points.iterrows():
        marks = "*" if row["front"] else " "
        words = [f"{marks} {escape(str(name))}", str(row["seeds"]), spread(row, "y"), spread(row, "x"), row["state"]]
        table.add_row(*words, *cells(report, str(name), list(columns)))
    for name, row in report.controls.iterrows():
        words = [f"  {escape(str(name))}", str(row["seeds"]), spread(row, "y"), spread(row, "x"), "control"]
        table.add_row(*words, *cells(report, str(name), list(columns)), style="dim")
    console.print(report.scope, style="bold", highlight=False)
    console.print(table)
    said = ["* on the front of the means; ± half a 95 % t interval", *answers(report), price_words(report)]
    said += [f"Missing: {line}" for line in report.missing]
    said += [f"Published: {line}" for line in report.not_compared]
    said += [f"On the sweep's page in MLflow too: run {report.parent}"] if report.parent else []
    for line in said:
        console.print(escape(line), soft_wrap=True, highlight=False)
    for path in files:
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
