"""The certificate as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from paredown.export.folder import USAGE
from paredown.export.work import Exported


def show(made: Exported, name: str | None) -> None:
    """Print the certificate's table, what it was measured on, and the paths of the files."""
    head, *rows = made.certificate.rows()
    table = Table()
    for index, title in enumerate(head):
        table.add_column(title, justify="right" if index > 1 else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(f"{made.certificate.about['experiment']}, exported", style="bold", highlight=False)
    console.print(table)
    for format, entry in made.certificate.entries.items():
        if idle := entry.macs - entry.active_macs:
            console.print(
                f"{format}: {idle:,} multiply-adds are by weights that are zero and save no time", highlight=False
            )
    lines = [made.certificate.words(), f"files    {made.folder}", f"try      python {made.folder / USAGE} IMAGE"]
    lines += [f"MLflow   models:/{name}/{made.version}"] if made.version else []
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
