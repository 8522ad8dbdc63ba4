"""Files of a report: report.html, front.html, front.png, front.csv, and what the next one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paredown.core.errors import UserError
from paredown.core.files import write_text
from paredown.frontier import figure, picture
from paredown.report.build import Report
from paredown.report.changes import remember
from paredown.report.page import render

if TYPE_CHECKING:
    import pandas

COLUMNS = ["source", "name", "method", "model", "x", "x_low", "x_high", "y", "y_low", "y_high", "seeds", "state"]
COLUMNS += ["front", "knee", "target_asked", "target_reached", "target_missed"]
COLUMNS += ["control", "of", "counting", "mark", "note", "link"]


def write(report: Report, folder: Path) -> list[Path]:
    """Write the four files into `folder`, created if necessary, and return their paths. Raise UserError if that
    fails."""
    points, controls = report.labelled
    drawn = (points, report.published, report.x, report.y)
    paths = [folder / name for name in ("report.html", "front.html", "front.png", "front.csv")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[0], render(report, remember(report, folder)))
        write_text(paths[1], figure.page(figure.draw(*drawn, report.bounds, controls)))
        picture.save(*drawn, paths[2], report.bounds, controls)
        write_text(paths[3], _data(report).to_csv(index=False))
    except OSError as error:
        raise UserError(f"cannot write the report into {folder}: {error.strerror} (choose another: folder=)") from error
    return paths


def _data(report: Report) -> pandas.DataFrame:
    """Merge settings, controls and published rows into one table; x and y are named by their metrics."""
    import pandas

    settings = report.points.reset_index(names="name").assign(source="own")
    published = report.published.rename(columns={"id": "name"}).assign(source="published")
    controls = report.controls.reset_index(names="name").assign(source="control", state="", front=False, knee=False)
    parts = [part for part in (settings, controls, published) if len(part)]
    table = pandas.concat(parts, ignore_index=True)
    names = {name: name.replace("x", report.x.name, 1) for name in ("x", "x_low", "x_high")}
    names |= {name: name.replace("y", report.y.name, 1) for name in ("y", "y_low", "y_high")}
    return table.reindex(columns=COLUMNS).rename(columns=names)
