"""`python src/export.py`: exit code 1 where a file is not what was trained, 2 for a mistake, as src/run.py."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from paredown.command import carry_out
from paredown.export.request import Request, parse


def main() -> None:
    """Export and certify what the command line asks for."""
    carry_out(lambda words: _export(parse(words)), Path(__file__).parent / "help.txt")


def _export(request: Request) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    from paredown.export import work  # torch and Lightning: seconds, so not before they are needed
    from paredown.export.terminal import show
    from paredown.export.verify import verify

    logging.getLogger("paredown").setLevel(logging.INFO)
    if request.verify:
        print(verify(request.verify, request.root))
        return
    made = work.export(request)
    show(made, request.register)
