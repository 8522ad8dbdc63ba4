"""`python src/report.py`: one line and exit code 2 for a mistake, as src/run.py."""

from __future__ import annotations

from pathlib import Path

from paredown.command import carry_out
from paredown.report.request import Request, parse


def main() -> None:
    """Write and show the report that the command line asks for."""
    carry_out(lambda words: _report(parse(words)), Path(__file__).parent / "help.txt")


def _report(request: Request) -> None:
    from paredown.report.publish import refresh  # pandas, scipy, MLflow: seconds, so not before they are needed
    from paredown.report.terminal import show

    show(*refresh(request))
