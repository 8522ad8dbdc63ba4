"""A planned sweep, run: alone under its name, recorded, shown, and left in order however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from paredown.errors import UserError
from paredown.sweep import cluster
from paredown.sweep.board import Board
from paredown.sweep.driver import run_trials
from paredown.sweep.live import Display
from paredown.sweep.planning import Plan
from paredown.sweep.records import Records
from paredown.tracking.tracker import Status


def run(plan: Plan, link: cluster.Link) -> Board:
    """Run what is missing of `plan` on the Ray that `link` connects to. Whatever stops it, what was finished is kept
    and recorded.

    Raises UserError before anything starts where there is no Ray to run on, or none with room for an experiment.
    """
    board = Board(plan)
    if not board.open:
        board.add_controls()  # all that was asked for is done: they may be left
    with _alone(plan) as folder:
        asked = board.open
        dashboard = link() if asked else None
        records = Records(board, folder)
        status: Status = "FAILED"
        try:
            if asked:
                with Display(board, dashboard):
                    _run(board, folder)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if asked:  # else one may still be starting
                cluster.disconnect()
            records.close(status)
    return board


def _run(board: Board, folder: Path) -> None:
    """The sweep's own experiments, then their controls, which no search proposes and no rule stops."""
    sweep = board.plan.sweep
    if sweep.search or any(not planned.control for planned in board.waiting):
        run_trials(board, folder, sweep.search, sweep.stop)
    board.add_controls()
    if board.waiting:
        run_trials(board, folder)


@contextmanager
def _alone(plan: Plan) -> Iterator[Path]:
    """The sweep's own folder, held by one driver at a time."""
    try:
        with plan.store.alone(plan.folder, timeout=0):
            yield plan.folder
    except Timeout as error:
        raise UserError(f"sweep {plan.sweep.name} is running already (it holds {plan.folder}/.lock)") from error
