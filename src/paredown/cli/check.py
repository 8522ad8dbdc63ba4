"""The command `paredown check`: the contract of a method, held over one of yours."""

from __future__ import annotations

import sys
from pathlib import Path

from paredown.core.requests import FAILED, run_command

HELP = Path(__file__).parent / "help" / "check.txt"


def main() -> None:
    """Check the method on the command line, and exit with 1 where it breaks the contract."""
    run_command(_check, HELP)


def _check(words: list[str]) -> None:
    import logging

    from paredown.conformance.contract import CLAUSES, Contract
    from paredown.core.interrupt import working
    from paredown.core.words import with_config_dirs

    logging.getLogger("paredown").setLevel(logging.ERROR)
    with working(), Contract.of(with_config_dirs(words)) as contract:
        broken = 0
        for clause in CLAUSES:
            said = contract.broken_by(clause)
            broken += said is not None
            print(f"{'ok    ' if said is None else 'BROKEN'}  {clause.text}{f': {said}' if said else ''}", flush=True)
    print(f"{contract.method}: {len(CLAUSES) - broken} of {len(CLAUSES)} clauses hold")
    if broken:
        sys.exit(FAILED)
