"""`python src/report.py`: one line and exit code 2 for a mistake, as src/run.py."""

from __future__ import annotations

import sys
from pathlib import Path

from paredown.errors import UserError
from paredown.report.request import Request, parse

MISTAKE, INTERRUPTED = 2, 130


def main() -> None:
    """Write and show the report that the command line asks for."""
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print((Path(__file__).parent / "help.txt").read_text(), end="")
        sys.exit(0 if words else MISTAKE)
    try:
        _report(parse(words))
    except UserError as error:
        print(f"paredown: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        print("paredown: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _report(request: Request) -> None:
    from paredown.report.publish import refresh  # pandas, scipy, MLflow: seconds, so not before they are needed
    from paredown.report.terminal import show

    show(*refresh(request))
