"""The terminal output of a sweep: its plan before it runs, its results afterwards."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paredown.core.curves import scattered
from paredown.core.formatting import PREFIXES, si
from paredown.core.plan import Fit
from paredown.sweep.planning import Plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import Search

MAX_PLANNED = 12  # experiments of a plan that are listed
MAX_RESULTS = 40  # up to which all results are listed; of more, only the front
ON_FRONT, BELOW = "*", "o"  # signs of experiments


def show_plan(plan: Plan) -> None:
    """Print the experiments, the distinct stages, how many are stored, and the training saved by sharing."""
    console = Console()
    done = [planned.finished for planned in plan.experiments]
    console.print(Text.assemble((plan.sweep.name, "bold"), f" {plan.sweep.description}"), soft_wrap=True)
    show_precisions(plan)
    if plan.sweep.search:
        return _show_space(plan.sweep.search)
    experiments = Table("", "experiment", "finished")
    for number, (planned, finished) in enumerate(zip(plan.experiments, done, strict=True), 1):
        if number <= MAX_PLANNED:
            experiments.add_row(str(number), Text(planned.label), "yes" if finished else "")
    if len(done) > MAX_PLANNED:
        experiments.add_row("...", f"{len(done) - MAX_PLANNED} more", "")
    console.print(experiments)
    stages = Table("stage", "")
    for name in ("distinct", "in the store", "to run"):
        stages.add_column(name, justify="right")
    for count in plan.stage_counts:
        kind = "trains" if count.trains else ""
        stages.add_row(count.name, kind, str(count.distinct), str(count.stored), str(count.distinct - count.stored))
    console.print(stages)
    console.print(summary(plan), soft_wrap=True, highlight=False)


def show_precisions(plan: Plan) -> None:
    """Print what recipe.precision=auto and channels_last=auto became, for each network of the plan, and why."""
    for name, lines in (("precision", plan.precisions), ("channels_last", plan.layouts)):
        for line in lines:
            Console().print(f"recipe.{name}=auto: {line}", soft_wrap=True, highlight=False, markup=False)


def _show_space(search: Search) -> None:
    table = Table("key", "values", title=f"{search.algorithm}: {search.trials} experiments of this space")
    for key, dimension in search.space.items():
        between = f"{dimension.low} to {dimension.high}{', logarithmic' if dimension.log else ''}"
        table.add_row(Text(key), Text(", ".join(map(str, dimension.choices)) or between))
    Console().print(table)


def summary(plan: Plan) -> str:
    """Return the summary line: `48 experiments, 9 distinct trainings, 39 reused` and the training that saves."""
    trainings = sum(count.distinct for count in plan.stage_counts if count.trains)
    unshared = sum(isinstance(step.stage, Fit) for planned in plan.experiments for step in planned.experiment.steps)
    stored = sum(count.stored for count in plan.stage_counts if count.trains)
    done = sum(planned.finished for planned in plan.experiments)
    counts = f"{len(plan.experiments)} experiments ({done} finished), {trainings} distinct trainings ({stored} stored)"
    saved = f"{unshared - trainings} reused: {plan.images_unshared / plan.images_shared:.2f}x less training"
    amounts = f"{millions(plan.images_shared)} instead of {millions(plan.images_unshared)} million training images"
    return f"{counts}, {saved} ({amounts}){_controls_note(plan)}"


def _controls_note(plan: Plan) -> str:
    every = plan.sweep.control_kinds
    text = f"; when they are done, the controls of each compressed network: {', '.join(every)}" if every else ""
    number = sum(len(set(planned.controls) - set(every)) for planned in plan.experiments)
    return f"{text}; when they are done, {number} controls of single points" if number else text


def millions(images: float) -> str:
    """Format a number of images in millions, with three digits."""
    return f"{images / 1e6:.3g}"


def show_results(progress: Progress) -> None:
    """Print the results by increasing cost, those on the front marked, then the failures."""
    console, names, front = Console(), progress.metrics, set(progress.front)
    table = Table("", "experiment", title=progress.plan.sweep.name, title_justify="left")
    for name in (names.accuracy, names.cost, "fewer MACs", "faster"):
        table.add_column(name, justify="right")
    rows = [(row.get(names.cost), row.get(names.accuracy), key) for key, row in progress.results.items()]
    for cost, accuracy, key in sorted(rows, key=lambda row: (row[0] or 0, -(row[1] or 0))):
        on_front = (cost, accuracy) in front and not progress.planned[key].control
        if on_front or len(rows) <= MAX_RESULTS:
            ratios = [progress.results[key].get(name) for name in ("cost/speed_up", "latency/speed_up")]
            figures = ["" if accuracy is None else f"{accuracy:.2f}", "" if cost is None else si(cost)]
            figures += ["" if ratio is None else f"{ratio:.2f}x" for ratio in ratios]
            table.add_row(ON_FRONT if on_front else "", Text(progress.planned[key].label), *figures)
    console.print(table)
    for key, reason in progress.failed.items():
        console.print(f"failed: {progress.planned[key].label}: {reason}", soft_wrap=True, highlight=False, markup=False)
    counts = f"{len(progress.results)} of {progress.total} experiments done, {len(progress.reused)} of them before"
    stopped = f"; {len(progress.stopped)} stopped early" if progress.stopped else ""
    rest = f"{len(progress.failed)} failed; {len(progress.trained)} trainings ({ON_FRONT} on the front)"
    console.print(f"{counts}{stopped}; {rest}", highlight=False)


def front_line(progress: Progress) -> str:
    """Return the front so far in one line: `front: 1.2M 88.10  2.4M 90.32`, "" if it is empty."""
    points = [f"{si(cost)} {accuracy:.2f}" for cost, accuracy in progress.front]
    return f"front: {'  '.join(points)}" if points else ""


def points_drawn(progress: Progress, width: int) -> Text:
    """Return the picture of the experiments so far, controls left out, on `width` columns; a sentence before there are
    two points."""
    every, front = sorted(set(progress.pairs())), progress.front
    if len(every) < 2:
        return Text("the picture begins with the second point", style="dim")
    size, prefix = next(((size, name) for size, name in PREFIXES if every[-1][0] >= size), (1.0, ""))
    of_size = f" ({prefix})" * bool(prefix)
    groups = {
        sign: [(cost / size, accuracy) for cost, accuracy in points]
        for sign, points in ((BELOW, [one for one in every if one not in front]), (ON_FRONT, front))
    }
    names = progress.metrics
    return scattered(f"{names.accuracy} over {names.cost}{of_size}, {ON_FRONT} on the front", groups, width)
