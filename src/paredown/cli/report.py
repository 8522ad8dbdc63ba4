"""The command `python src/report.py`."""

from __future__ import annotations

from pathlib import Path

from paredown.core.interrupt import working
from paredown.core.requests import run_command
from paredown.report.request import Request, parse


def main() -> None:
    """Write and show the report that the command line asks for."""
    run_command(lambda words: _report(parse(words)), Path(__file__).parent / "help" / "report.txt")


def _report(request: Request) -> None:
    from paredown.report.publish import refresh  # pandas, scipy, MLflow: seconds, so not before they are needed
    from paredown.report.terminal import show

    with working():
        found = refresh(request)
    show(*found)
