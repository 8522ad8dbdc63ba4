"""The charts of MLflow's pages: one for each data set and network, its runs coloured by method as in a report."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paredown.frontier.plots import COLOURS, style
from paredown.tracking.client import every_run
from paredown.tracking.view import EXPERIMENTS, KEY, save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# tags of a run: what MLflow draws it in, which a person may change, and what was chosen here
COLOUR, OURS = "mlflow.runColor", "paredown.colour"
SHADES = ((0, 0.0), (255, 0.5), (0, 0.4))  # a grey level, and its share in each further round of the palette


@dataclass(frozen=True)
class Chart:
    """A saved chart: the `key` of its view, what it shows, and of how many runs."""

    key: str
    what: str
    runs: int


def charts(client: MlflowClient, experiment: Experiment) -> list[Chart]:
    """Save a chart of `experiment` for each data set and network, the one of most runs first, and colour its runs by
    method. Without any, save the one of all runs."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in every_run(client, [experiment.experiment_id], EXPERIMENTS):
        groups[run.data.tags.get("dataset", ""), run.data.tags.get("model", "")].append(run)
    drawn = {pair: runs for pair, runs in groups.items() if all(map(_is_plain, pair))}
    save_view(client, experiment)
    found = []
    for (dataset, model), runs in sorted(drawn.items(), key=lambda item: -len(item[1])):
        _colour(client, runs)
        key = f"{KEY}-{dataset}-{model}"
        only = f"{EXPERIMENTS} and tags.dataset = '{dataset}' and tags.model = '{model}'"
        save_view(client, experiment, key, f"{dataset}, {model}", only)
        found.append(Chart(key, f"{dataset}, {model}", len(runs)))
    return found or [Chart(KEY, "", sum(map(len, groups.values())))]


def _is_plain(name: str) -> bool:
    """Return whether `name` can stand in a search and in an address as it is."""
    return bool(re.fullmatch(r"[\w.-]{1,80}", name, re.ASCII))


def _colour(client: MlflowClient, runs: list[Run]) -> None:
    """Give each method of `runs` a colour, but for runs that a person coloured."""
    from mlflow.entities import RunTag

    methods = sorted({run.data.tags.get("method", "") for run in runs})
    for run in runs:
        tags = run.data.tags
        wanted = colour(methods.index(tags.get("method", "")))
        if tags.get(COLOUR) == tags.get(OURS) != wanted:
            client.log_batch(run.info.run_id, tags=[RunTag(name, wanted) for name in (OURS, COLOUR)])


def colour(index: int) -> str:
    """Return the colour of the `index`-th method: that of a report's figures, where symbols tell the eighth from the
    first; here it is lighter, then darker."""
    base = style(index)[0]
    ground, share = SHADES[index // len(COLOURS) % len(SHADES)]
    parts = (int(base[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + (ground - part) * share):02X}" for part in parts)
