"""The report's files: report.html, front.html, front.png and front.csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paredown.errors import UserError
from paredown.frontier import figure, picture
from paredown.report.build import Report
from paredown.report.page import render
from paredown.tracking.journal import write_text

if TYPE_CHECKING:
    import pandas

COLUMNS = ["source", "name", "method", "model", "x", "x_low", "x_high", "y", "y_low", "y_high", "seeds", "state"]
COLUMNS += ["front", "knee", "control", "of", "counting", "mark", "note", "link"]


def write(report: Report, folder: Path) -> list[Path]:
    """Write the four files into `folder`, made where it is not there; their paths. UserError where it cannot be."""
    points, beside = report.labelled
    drawn = (points, report.published, report.x, report.y)
    paths = [folder / name for name in ("report.html", "front.html", "front.png", "front.csv")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[0], render(report))
        write_text(paths[1], figure.page(figure.draw(*drawn, report.bounds, beside)))
        picture.save(*drawn, paths[2], report.bounds, beside)
        write_text(paths[3], _data(report).to_csv(index=False))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror} (choose another: folder=)") from error
    return paths


def _data(report: Report) -> pandas.DataFrame:
    """Own settings, their controls and published rows in one table; x and y carry their metrics' names."""
    import pandas

    own = report.points.reset_index(names="name").assign(source="own")
    theirs = report.published.rename(columns={"id": "name"}).assign(source="published")
    beside = report.controls.reset_index(names="name").assign(source="control", state="", front=False, knee=False)
    parts = [part for part in (own, beside, theirs) if len(part)]
    table = pandas.concat(parts, ignore_index=True)
    names = {name: name.replace("x", report.x.name, 1) for name in ("x", "x_low", "x_high")}
    names |= {name: name.replace("y", report.y.name, 1) for name in ("y", "y_low", "y_high")}
    return table.reindex(columns=COLUMNS).rename(columns=names)
