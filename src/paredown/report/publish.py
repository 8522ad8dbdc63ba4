"""Publication of a report on its sweep's page in MLflow: files as artifacts, main findings as the description."""

from __future__ import annotations

from pathlib import Path

from paredown.core.errors import UserError
from paredown.report.build import Report, build
from paredown.report.files import write
from paredown.report.formatting import markdown, spread
from paredown.report.page import answers, training_cost_summary
from paredown.report.request import Request
from paredown.report.runs import store_of
from paredown.tracking.client import connect, outages_as, public

NOTE = "mlflow.note.content"
LEGEND = """Filled points are settings, hollow ones published rows. Large with a black rim: significantly on the front;
small: significantly dominated; between: undecided. Bold: on the front of the means; ± is half a 95 % t interval over
seeds. Thin strokes, if any: controls, networks of the same cost without the method."""
ROWS = 15  # of the description's table: MLflow limits a description to 8,000 characters


def refresh(request: Request) -> tuple[Report, list[Path]]:
    """Build the report on `request`, write its files into `request.place` and, for a whole sweep, publish them on its
    page. Called by src/report.py, and by a sweep whenever one of its experiments finishes."""
    report = build(request)
    files = write(report, request.place)
    if report.parent:
        publish(report, files, report.parent)
    return report, files


def publish(report: Report, files: list[Path], run_id: str) -> None:
    """Log `files` (as `files.write` returns them) to the MLflow run and set its description; both replace older ones.
    Raise UserError if the tracking server does not answer."""
    uri = store_of(report.request)
    with outages_as(UserError, f"{public(uri)} does not take the report: "):
        client = connect(uri)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_tag(run_id, NOTE, description(report, run_id, client.get_run(run_id).info.experiment_id))


def description(report: Report, run_id: str, experiment: str) -> str:
    """Return the description of the sweep's run in Markdown: main findings, front, legend and settings."""
    artifacts = f"#/experiments/{experiment}/runs/{run_id}/artifacts"
    image = f"get-artifact?path=front.png&run_uuid={run_id}"  # relative, to work at any address of the server
    verdict, *more = map(markdown, answers(report))
    lines = [
        f"**{markdown(report.scope)}**\n\n{verdict}",
        f"![{report.y.title} against {report.x.title}]({image})",
        _table(report),
        "\n".join(f"* {line}" for line in [*more, training_cost_summary(report)]),
        LEGEND,
        f"[The whole report]({artifacts}/report.html) has every layer, training cost and published row, "
        f"[front.html]({artifacts}/front.html) the interactive front, front.csv its data.",
        "\n".join(f"* missing: {markdown(line)}" for line in report.missing),
    ]
    return "\n\n".join(lines)


def _table(report: Report) -> str:
    points = report.points
    shown = points.sort_values(["front", "x"], ascending=[False, True], kind="stable")[:ROWS]
    head = f"| setting | seeds | {report.y.name} | {report.x.name} | state |\n|---|---|---|---|---|"
    rows = [
        f"| {_bold(markdown(str(name)), row['front'])} | {row['seeds']} | {spread(row, 'y')} | {spread(row, 'x')} "
        f"| {row['state']} |"
        for name, row in shown.iterrows()
    ]
    more = [f"| and {len(points) - ROWS} more | | | | |"] if len(points) > ROWS else []
    return "\n".join([head, *rows, *more])


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text
