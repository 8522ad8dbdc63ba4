"""`python src/sweep.py`: one line and exit code 2 for a mistake, before anything starts."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.cli import FAILED, INTERRUPTED, MISTAKE, end
from paredown.errors import UserError

if TYPE_CHECKING:
    from paredown.sweep.board import Board

HELP = Path(__file__).parent / "help.txt"


def main() -> None:
    """Plan or run the sweep named on the command line; the exit codes are those of `--help`."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        from paredown.sweep.file import FOLDER

        print(
            HELP.read_text().replace("$SWEEPS", "\n".join(f"  {path.stem}" for path in sorted(FOLDER.glob("*.yaml"))))
        )
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    gc.set_threshold(100_000)  # of what imports allocate nothing is garbage: looking for it took 0.6 s
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's polite stop is a Ctrl-C
    try:
        failed = _run([word for word in words if word != "--plan"], "--plan" in words)
    except UserError as error:
        end(str(error), MISTAKE)
    except OSError as error:
        end(f"{error}; what was finished is kept, the same command goes on", FAILED)
    except KeyboardInterrupt:
        end(f"interrupted; the same command goes on: python src/sweep.py {shlex.join(words)}", INTERRUPTED)
    if failed:
        sys.exit(FAILED)


def _compare(board: Board) -> None:
    """Set published rows, where the sweep is of such, beside what came out."""
    if not board.reproduced:
        return
    from paredown.reproduce import compare, only_row, reasons, show

    found = []
    for name, keys in board.reproduced.items():
        if metrics := [board.results[key] for key in keys if key in board.results]:
            row, typed = only_row(name), board.plan.sweep.typed
            found.append(compare(row, board.planned[keys[0]].overrides, metrics, reasons(row, typed)))
    folders = [item.save(board.plan.output).parent for item in found]
    if found:
        show(found, folders[0])


def _run(words: list[str], only_plan: bool) -> bool:
    from paredown.sweep.file import load

    sweep = load(words)
    if only_plan:
        from paredown.sweep.planning import plan  # torch and Lightning: seconds, so not before the file is read
        from paredown.sweep.tables import show_plan

        show_plan(plan(sweep))
        return False
    from paredown.sweep.cluster import connecting

    with connecting(sweep) as link:
        from paredown.sweep.planning import plan
        from paredown.sweep.run import run
        from paredown.sweep.tables import show_results

        try:
            planned = plan(sweep)
        except UserError as error:
            end(str(error), MISTAKE)  # at once: a Ray that is starting has to be waited for
        logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
        logging.getLogger("paredown").setLevel(logging.WARNING)
        board = run(planned, link)
    show_results(board)
    _compare(board)
    if (report := planned.folder / "report.html").is_file():
        print(f"report   {report}\nMLflow   make dashboard")
    return bool(board.failed)
