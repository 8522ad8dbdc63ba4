"""The command `paredown demo`: five methods on embedded images in three minutes, then their report."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from paredown.core.constraints import Checked, Count
from paredown.core.interrupt import working
from paredown.core.requests import Failure, Folder, as_called, exit_codes, parse

HELP = Path(__file__).parent / "help" / "demo.txt"
STOPPED = "interrupted; the same command goes on where it was"


@dataclass(frozen=True)
class Request(Checked):
    """Where the records go, how many `images` go through each network, and whether the report is opened."""

    section: ClassVar[str] = ""

    output: Folder = Path("outputs/demo")
    images: Count = 13_000  # about ten epochs: the comparison is of equals
    open: bool = True


def main() -> None:
    """Run the demonstration, and print where its report is."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        print(HELP.read_text(encoding="utf-8"), end="")
        return
    with exit_codes(STOPPED):
        _demo(parse(Request, words))


def _demo(request: Request) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    from paredown.run.terminal import dashboard
    from paredown.sweep.demo import demo, opened  # torch: seconds, so not before they are needed

    with working():
        rows = demo(request.output, request.images)
        if not any(row.metrics for row in rows):
            raise Failure("no experiment was done: the table says why")
        page = _report(request.output)
    shown = request.open and opened(page)
    print(f"report   {page}{' (opened in the browser)' if shown else ''}")
    print(f"MLflow   {dashboard(request.output)}")
    print(as_called("next     python src/run.py --help: experiments of your own"))


def _report(output: Path) -> Path:
    """Write the report on all of the demonstration; return the path of its page."""
    from paredown.report.publish import refresh
    from paredown.report.request import Request as ReportRequest

    request = ReportRequest(dataset="digits", model="resnet20", output=output)
    refresh(request)
    return request.place / "report.html"
