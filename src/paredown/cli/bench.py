"""The command `python src/bench.py`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from paredown.bench.request import Request, parse
from paredown.core.interrupt import working
from paredown.core.requests import run_command


def main() -> None:
    """Time what the command line asks for."""
    run_command(lambda words: _bench(parse(words)), Path(__file__).parent / "help" / "bench.txt")


def _bench(request: Request) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    from paredown.bench import (
        record,  # torch and Lightning: seconds, so not before they are needed
        terminal,
    )
    from paredown.bench.measure import bench
    from paredown.bench.subject import subject
    from paredown.core.display import shown

    logging.getLogger("paredown").setLevel(logging.INFO)
    timed = subject(request)
    with working(), shown(request.progress):
        measured = bench(request, timed)
    terminal.table(measured)  # first: the minutes it took are not lost where it cannot be written
    with working(), shown(request.progress):
        paths = record.write(measured, request.folder or request.output / "bench" / timed.name)
        recorded = record.record(measured, paths, timed)
    for path in paths:
        print(path)
    if recorded:
        print(f"also with run {measured.run} in MLflow")
