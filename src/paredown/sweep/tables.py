"""What a sweep prints: the plan before, what was found after."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paredown.plan import Fit
from paredown.sweep.board import Board
from paredown.sweep.file import Search
from paredown.sweep.planning import Plan

SHOWN = 12  # experiments of a plan that are listed by name
FOUND = 40  # results listed in full; of more, the front alone


def show_plan(plan: Plan) -> None:
    """Print the experiments, the distinct stages, what the store has, and the training saved by sharing."""
    console = Console()
    done = [planned.finished for planned in plan.experiments]
    console.print(Text.assemble((plan.sweep.name, "bold"), f" {plan.sweep.description}"), soft_wrap=True)
    if plan.sweep.search:
        return _show_space(plan.sweep.search)
    experiments = Table("", "experiment", "finished")
    for number, (planned, finished) in enumerate(zip(plan.experiments, done, strict=True), 1):
        if number <= SHOWN:
            experiments.add_row(str(number), Text(planned.label), "yes" if finished else "")
    if len(done) > SHOWN:
        experiments.add_row("...", f"{len(done) - SHOWN} more", "")
    console.print(experiments)
    stages = Table("stage", "")
    for name in ("distinct", "in the store", "to run"):
        stages.add_column(name, justify="right")
    for level in plan.levels:
        kind = "trains" if level.trains else ""
        stages.add_row(level.name, kind, str(level.distinct), str(level.stored), str(level.distinct - level.stored))
    console.print(stages)
    console.print(summary(plan), soft_wrap=True, highlight=False)


def _show_space(search: Search) -> None:
    table = Table("key", "values", title=f"{search.algorithm}: {search.trials} experiments of this space")
    for key, dimension in search.space.items():
        between = f"{dimension.low} to {dimension.high}{', logarithmic' if dimension.log else ''}"
        table.add_row(Text(key), Text(", ".join(map(str, dimension.choices)) or between))
    Console().print(table)


def summary(plan: Plan) -> str:
    """`48 experiments, 9 distinct trainings, 39 reused`, and how much training that saves."""
    trainings = sum(level.distinct for level in plan.levels if level.trains)
    alone = sum(isinstance(step.stage, Fit) for planned in plan.experiments for step in planned.experiment.steps)
    stored = sum(level.stored for level in plan.levels if level.trains)
    done = sum(planned.finished for planned in plan.experiments)
    counts = f"{len(plan.experiments)} experiments ({done} finished), {trainings} distinct trainings ({stored} stored)"
    saved = f"{alone - trainings} reused: {plan.images_alone / plan.images_shared:.2f}x less training"
    amounts = f"{millions(plan.images_shared)} instead of {millions(plan.images_alone)} million training images"
    return f"{counts}, {saved} ({amounts}){_awaited(plan)}"


def _awaited(plan: Plan) -> str:
    kinds = plan.sweep.control_kinds
    return f"; when they are done, the controls of each compressed network: {', '.join(kinds)}" if kinds else ""


def millions(images: float) -> str:
    """A number of images in millions, three digits."""
    return f"{images / 1e6:.3g}"


def show_results(board: Board) -> None:
    """Print what was found: every experiment, the cheapest first, those on the front marked; then what failed."""
    console, names, front = Console(), board.metrics, set(board.front)
    table = Table("", "experiment", title=board.plan.sweep.name, title_justify="left")
    for name in (names.accuracy, names.cost, "fewer MACs", "faster"):
        table.add_column(name, justify="right")
    rows = [(row.get(names.cost), row.get(names.accuracy), key) for key, row in board.results.items()]
    for cost, accuracy, key in sorted(rows, key=lambda row: (row[0] or 0, -(row[1] or 0))):
        on_front = (cost, accuracy) in front and not board.planned[key].control
        if on_front or len(rows) <= FOUND:
            ratios = [board.results[key].get(name) for name in ("cost/speed_up", "latency/speed_up")]
            figures = ["" if accuracy is None else f"{accuracy:.2f}", "" if cost is None else big(cost)]
            figures += ["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
            table.add_row("*" if on_front else "", Text(board.planned[key].label), *figures)
    console.print(table)
    for key, reason in board.failed.items():
        console.print(f"failed: {board.planned[key].label}: {reason}", soft_wrap=True, highlight=False, markup=False)
    counts = f"{len(board.results)} of {board.total} experiments done, {len(board.reused)} of them before"
    stopped = f"; {len(board.stopped)} stopped early" if board.stopped else ""
    console.print(
        f"{counts}{stopped}; {len(board.failed)} failed; {len(board.trained)} trainings (* on the front)",
        highlight=False,
    )


def front_line(board: Board) -> str:
    """The front so far in one line: `front: 1.2M 88.10  2.4M 90.32`."""
    points = [f"{big(cost)} {accuracy:.2f}" for cost, accuracy in board.front]
    return f"front: {'  '.join(points)}" if points else ""


def big(number: float) -> str:
    """`40.8M`, `76.7k`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
