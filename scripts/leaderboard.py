"""Writes docs/leaderboard.md, its pictures and its data from what is recorded: make leaderboard.

python scripts/leaderboard.py [--sweep leaderboard_cifar10] [--output outputs] [--uri http://HOST:PORT]
python scripts/leaderboard.py --time        # first times one run of each setting that was not; on a quiet machine
python scripts/leaderboard.py --time all    # and those that were: where other things ran at the time

Each setting takes about a minute and a half. Stopped, the same command goes on with those that are left.

What the files hold already and is not recorded here stays: a board grows by the runs of several machines.
"""

from __future__ import annotations

from paredown.core import interrupt

interrupt.install()

import argparse  # noqa: E402 (these take seconds, in which Ctrl-C is one line already)
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from paredown.core.errors import UserError  # noqa: E402
from paredown.core.requests import Failure, exit_codes  # noqa: E402
from paredown.report import leaderboard, leaderboard_data, leaderboard_picture  # noqa: E402
from paredown.report.request import Request  # noqa: E402
from paredown.report.runs import read  # noqa: E402

if TYPE_CHECKING:
    import pandas

    from paredown.report.leaderboard_data import Board
    from paredown.report.runs import Recorded

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE, PICTURE, FRONT = "leaderboard.md", "leaderboard.png", "leaderboard_macs.png"
FILES = (PAGE, PICTURE, FRONT, leaderboard_data.RUNS, leaderboard_data.SETTINGS)
TIMED = "bench/ms_b1"
BENCH = (sys.executable, str(ROOT / "src" / "bench.py"))


def main() -> None:
    """Write the files; exit with code 2 and a line where nothing can be ranked yet, with 1 where something could not be
    timed."""
    parser = argparse.ArgumentParser(description="Write the leaderboard from what is recorded.")
    parser.add_argument("--sweep", default="leaderboard_cifar10", help="the sweep whose runs are ranked")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder with the experiments")
    parser.add_argument("--uri", help="address of an MLflow server with the runs")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where the files go")
    which = {"nargs": "?", "const": "new", "choices": ["new", "all"]}
    parser.add_argument("--time", **which, help="time each setting that was not timed yet, or all")
    options = parser.parse_args()
    with exit_codes(), interrupt.working():
        request = Request(sweep=options.sweep, output=options.output, uri=options.uri)
        doubts = time_settings(request, again=options.time == "all") if options.time else []
        write(request, options.folder)
        if doubts:
            raise Failure(f"timed badly: {'; '.join(doubts)}")


def time_settings(request: Request, again: bool) -> list[str]:
    """Time, one after another, a run of each setting that is no control and has no recorded latency of one image, or
    of each (`again`). Return a line for each that has none now, or one that was taken while other things ran."""
    runs = _read(request).runs
    groups = [(name, rows) for name, rows in runs[runs["control"] == ""].groupby("setting", sort=False)]
    wanted = [(name, rows) for name, rows in groups if again or TIMED not in rows or rows[TIMED].isna().all()]
    doubts = []
    for number, (name, rows) in enumerate(wanted, start=1):
        print(f"timing {number} of {len(wanted)}: {name}", flush=True)
        timed = _first(request, rows.sort_values("seed"))
        if timed is None:
            doubts.append(f"{name} cannot be")
        elif not timed["is_quiet"]:
            doubts.append(f"{name} while other things ran")
    return doubts


def _first(request: Request, rows: pandas.DataFrame) -> dict[str, Any] | None:
    """Time the first of the runs `rows` that can be, those that were before, and return what its bench wrote."""
    known = rows[TIMED].isna() if TIMED in rows else rows["run_id"] == ""
    for run in rows.loc[known.sort_values(kind="stable").index, "run_id"]:
        folder = request.output / "bench" / "leaderboard" / run
        words = [f"run={run}", "batch=[1,32]", "threads=1", f"output={request.output}", f"folder={folder}"]
        words += [f"tracking.uri={request.uri}"] if request.uri else []
        code = subprocess.run([*BENCH, *words], check=False).returncode
        if code in (interrupt.INTERRUPTED, -2):
            raise KeyboardInterrupt
        if code == 0:
            found: dict[str, Any] = json.loads((folder / "bench.json").read_text())
            return found
    return None


def write(request: Request, folder: Path) -> None:
    """Write the data, joined with that of before, then the page and the pictures from the data alone; print what is
    missing from them. Nothing is replaced before all is made."""
    recorded = _read(request)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".leaderboard-") as made:
            _make(request, recorded.runs, leaderboard_data.read(folder, request.sweep), Path(made))
            for name in FILES:
                (Path(made) / name).replace(folder / name)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error
    for line in recorded.missing:
        print(f"Missing: {line}")
    for name in FILES:
        print(folder / name)


def _read(request: Request) -> Recorded:
    """Read what is ranked: no debug runs, whose numbers mean nothing, and times that are comparable."""
    return leaderboard_data.without_odd_times(read(request, debug=False))


def _make(request: Request, runs: pandas.DataFrame, published: Board | None, folder: Path) -> None:
    board = leaderboard_data.collect(runs)
    leaderboard_data.write(leaderboard_data.join(board, published) if published else board, request.sweep, folder)
    table = leaderboard_data.load(folder / leaderboard_data.RUNS)
    (folder / PAGE).write_text(leaderboard.page(table, PICTURE, leaderboard_data.RUNS))
    seen, _ = leaderboard.split(table)
    half_width = leaderboard.half_widths(leaderboard.rankings(seen))
    leaderboard_picture.save(seen, half_width, folder / PICTURE)
    leaderboard_picture.save(seen, half_width, folder / FRONT, ["macs"])


if __name__ == "__main__":
    main()
