"""The command `python src/sweep.py`: a mistake ends it before anything starts."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.core.errors import UserError, nearest
from paredown.core.interrupt import working
from paredown.core.requests import FAILED, MISTAKE, Failure, as_called, as_setting, end, exit_codes

if TYPE_CHECKING:
    from paredown.sweep.progress import Progress

OPTIONS = ("--plan", "--help", "-h", "--config-dir")
HELP = Path(__file__).parent / "help" / "sweep.txt"


def main() -> None:
    """Plan or run the sweep on the command line, and exit with one of the codes that `--help` lists."""
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        from paredown.core.places import SWEEPS

        names = "\n".join(f"  {path.stem}" for path in sorted(SWEEPS.glob("*.yaml")))
        print(as_called(HELP.read_text(encoding="utf-8").replace("$SWEEPS", names)))
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"
    gc.set_threshold(100_000)  # of what imports allocate nothing is garbage: looking for it took 0.6 s
    with exit_codes(as_called(f"interrupted; the same command goes on: python src/sweep.py {shlex.join(words)}")):
        try:
            failed = _run([word for word in words if word != "--plan"], "--plan" in words)
        except OSError as error:
            raise Failure(f"{error}; what was finished is kept, the same command goes on") from error
    if failed:
        sys.exit(FAILED)


def _compare(progress: Progress) -> None:
    """Print the results beside the published rows, in a sweep of such rows."""
    if not progress.reproduced:
        return
    from paredown.published.settings import only_row
    from paredown.run.reproduce import compare, reasons, show

    found = []
    for name, keys in progress.reproduced.items():
        if metrics := [progress.results[key] for key in keys if key in progress.results]:
            row, typed = only_row(name), progress.plan.sweep.typed
            found.append(compare(row, progress.planned[keys[0]].overrides, metrics, reasons(row, typed)))
    folders = [item.save(progress.plan.output).parent for item in found]
    if found:
        show(found, folders[0])


def _run(words: list[str], only_plan: bool) -> bool:
    from paredown.core.words import roots, with_config_dirs
    from paredown.sweep.spec import SETTINGS, load

    command = as_called(f"python src/sweep.py {shlex.join(words)}")
    words = with_config_dirs(words)
    if meant := as_setting(words, [*roots(), *SETTINGS]):
        raise UserError(meant)
    if unknown := next((word for word in words if word.startswith("-")), None):
        raise UserError(f"unknown option {unknown!r}: {nearest(unknown, OPTIONS)}")
    sweep = load(words)
    if only_plan:
        from paredown.experiment.assumed import Assuming  # torch: seconds, so not before the file is read
        from paredown.sweep.planning import plan
        from paredown.sweep.terminal import show_plan

        opened = Assuming()
        show_plan(plan(sweep, opened))
        for line in opened.assumed:
            print(f"assumed: {line}")
        return False
    from paredown.sweep.cluster import connecting

    with connecting(sweep) as connect:
        from paredown.run.terminal import dashboard
        from paredown.sweep.planning import plan
        from paredown.sweep.run import run
        from paredown.sweep.terminal import show_precisions, show_results
        from paredown.sweep.watch import ClusterLost

        try:
            planned = plan(sweep)
        except UserError as error:
            end(error, MISTAKE)  # at once: leaving the `with` would wait for a Ray that is starting
        logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
        logging.getLogger("paredown").setLevel(logging.WARNING)
        show_precisions(planned)
        try:
            with working():
                progress = run(planned, connect)
        except ClusterLost as error:
            raise Failure(f"{error}; the same command goes on: {command}") from error
    show_results(progress)
    _compare(progress)
    if (report := planned.folder / "report.html").is_file():
        print(f"report   {report}\nMLflow   {dashboard(planned.output)}")
    if missing := progress.unrecorded:
        raise Failure(f"no experiment of {sweep.name} recorded {', '.join(missing)}: give a metric that runs have")
    return bool(progress.failed)
