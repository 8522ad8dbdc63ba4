"""The plan of an experiment, as `--plan` prints it: its stages, how long each trains, and which are stored."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paredown.core.config import compose
from paredown.core.formatting import grouped, si
from paredown.core.plan import Fit
from paredown.experiment.assumed import Assuming
from paredown.experiment.experiment import Experiment, Step
from paredown.experiment.prepare import prepare
from paredown.published.settings import with_row


def show_plan(overrides: list[str]) -> None:
    """Print the stages of the experiment of `overrides`; nothing runs. Raise UserError for whatever is wrong."""
    opened = Assuming()
    experiment = prepare(compose(with_row(overrides)), opened)
    table = Table("", "stage", "epochs", "images each", "stored")
    for number, step in enumerate(experiment.steps, 1):
        stored = "yes" if experiment.store.has(step.key) else ""
        table.add_row(str(number), Text(step.stage.name), *_cells(step), stored)
    console = Console()
    console.print(f"{experiment.folder.name.rpartition('-')[0]}", style="bold", soft_wrap=True, highlight=False)
    console.print(table)
    console.print(_summary(experiment), soft_wrap=True, highlight=False)
    for line in opened.assumed:
        console.print(f"assumed: {line}", soft_wrap=True, highlight=False, markup=False)


def _cells(step: Step) -> tuple[str, str]:
    if not isinstance(step.stage, Fit):
        return "", ""
    return str(step.stage.recipe.epochs), grouped(step.images)


def _summary(experiment: Experiment) -> str:
    fits = [step for step in experiment.steps if isinstance(step.stage, Fit)]
    images = sum(step.stage.recipe.epochs * step.images for step in fits if isinstance(step.stage, Fit))
    cost = experiment.dense_cost
    return (
        f"{len(experiment.steps)} stages, {len(fits)} of them trainings of {si(images)} images in all; "
        f"the dense network has {si(cost.macs)} MACs and {si(cost.params)} parameters"
    )
