"""The report on a run's page in MLflow: its files as artifacts, its answer as the description."""

from __future__ import annotations

from pathlib import Path

from paredown.errors import UserError
from paredown.report.build import Report, build
from paredown.report.files import write
from paredown.report.page import answers, price_words
from paredown.report.request import Request
from paredown.report.runs import store_of
from paredown.report.words import spread
from paredown.tracking.client import connect, outages_as, public

NOTE = "mlflow.note.content"
READ = """Filled points are runs, hollow ones published. Large with a black rim: on the front for certain; small:
dominated for certain; between: undecided. Bold: on the front of the means; ± is half a 95 % t interval over seeds.
Thin strokes, where there are any: controls, networks of the same cost that know nothing of the method."""
ROWS = 15  # of the description's table; MLflow takes 8,000 characters


def refresh(request: Request) -> tuple[Report, list[Path]]:
    """Build the report on `request`, write its files into `request.place` and put them on the sweep's page, where it is
    on a whole sweep: what src/report.py does, and a sweep whenever one of its experiments is finished."""
    report = build(request)
    files = write(report, request.place)
    if report.parent:
        publish(report, files, report.parent)
    return report, files


def publish(report: Report, files: list[Path], run_id: str) -> None:
    """Log `files` (as `files.write` returns them) to the MLflow run and make the report its description. What was there
    under the same names is replaced. UserError where the store does not answer."""
    uri = store_of(report.request)
    with outages_as(UserError, f"{public(uri)} does not take the report: "):
        client = connect(uri)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_tag(run_id, NOTE, description(report, run_id, client.get_run(run_id).info.experiment_id))


def description(report: Report, run_id: str, experiment: str) -> str:
    """The head of the run's page, in Markdown: the front, the answer, how to read it."""
    artifacts = f"#/experiments/{experiment}/runs/{run_id}/artifacts"
    image = f"get-artifact?path=front.png&run_uuid={run_id}"  # relative: below whatever address the server has
    lines = [
        f"**{report.scope}**",  # MLflow folds all but the first lines away: the answer goes before the picture
        "\n".join(f"* {line}" for line in [*answers(report), price_words(report)]),
        f"![{report.y.title} against {report.x.title}]({image})",
        READ,
        _table(report),
        f"[The whole report]({artifacts}/report.html) has every layer, price and published row, "
        f"[front.html]({artifacts}/front.html) the front to hover and click, front.csv its data.",
        "\n".join(f"* missing: {line}" for line in report.missing),
    ]
    return "\n\n".join(lines)


def _table(report: Report) -> str:
    points = report.points
    shown = points.sort_values(["front", "x"], ascending=[False, True], kind="stable")[:ROWS]
    head = f"| setting | seeds | {report.y.name} | {report.x.name} | state |\n|---|---|---|---|---|"
    rows = [
        f"| {'**' if row['front'] else ''}{name}{'**' if row['front'] else ''} | {row['seeds']} | {spread(row, 'y')} "
        f"| {spread(row, 'x')} | {row['state']} |"
        for name, row in shown.iterrows()
    ]
    more = [f"| and {len(points) - ROWS} more | | | | |"] if len(points) > ROWS else []
    return "\n".join([head, *rows, *more])
