"""`python src/bench.py`: one line and exit code 2 for a mistake, as src/run.py."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from paredown.bench.request import Request, parse
from paredown.command import carry_out


def main() -> None:
    """Time what the command line asks for."""
    carry_out(lambda words: _bench(parse(words)), Path(__file__).parent / "help.txt")


def _bench(request: Request) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    from paredown.bench import record, show  # torch and Lightning: seconds, so not before they are needed
    from paredown.bench.measure import bench
    from paredown.bench.subject import subject

    logging.getLogger("paredown").setLevel(logging.INFO)
    timed = subject(request)
    measured = bench(request, timed)
    paths = record.write(measured, request.folder or request.output / "bench" / timed.name)
    recorded = record.record(measured, paths, timed)
    show.table(measured)
    for path in paths:
        print(path)
    if recorded:
        print(f"also with run {measured.run} in MLflow")
