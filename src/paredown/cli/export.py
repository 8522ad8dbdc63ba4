"""The command `python src/export.py`: exit code 1 where a file computes something else than the trained network."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from paredown.core.interrupt import working
from paredown.core.requests import run_command
from paredown.export.request import Request, parse


def main() -> None:
    """Export and certify what the command line asks for."""
    run_command(lambda words: _export(parse(words)), Path(__file__).parent / "help" / "export.txt")


def _export(request: Request) -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    from paredown.core.display import shown
    from paredown.export import work  # torch and Lightning: seconds, so not before they are needed
    from paredown.export.terminal import show
    from paredown.export.verify import verify

    logging.getLogger("paredown").setLevel(logging.INFO)
    if request.verify:
        with working(), shown(request.progress):
            print(verify(request.verify, request.root, request.trust))
        return
    with working(), shown(request.progress):
        made = work.export(request)
    show(made, request.register)
