"""The saved chart of an MLflow experiment: accuracy against compute, one point per run, opened by one link.

MLflow's landing page is empty for such experiments. Its saved views are experiment tags of an undocumented
format (read from MLflow 3.17's interface): hence the cap on its version and the test with a browser.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

KEY = "paredown"
TRAINING = "workflowType=machine_learning"  # without it MLflow shows its pages for language models
TAG = f"mlflow.sharedViewState.{KEY}"
COMPUTE, ACCURACY = "cost/macs", "final/top1"
CERTIFIED = "certified"  # tag of a run: the formats in which its network was exported and found equal
COLUMNS = [f"metrics.`{name}`" for name in (ACCURACY, COMPUTE, "cost/params", "latency/ms")]
COLUMNS += [f"tags.`{name}`" for name in ("method", "control", "model", "dataset")]


def view_link(server: str, experiment_id: str) -> str:
    """The address at which `server` (http://HOST:PORT) opens straight on the saved chart."""
    query = f"viewStateShareKey={KEY}&compareRunsMode=CHART&{TRAINING}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """The address of one run's page."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def save_view(client: MlflowClient, experiment: Experiment) -> None:
    """Give `experiment` the saved chart, unless it has it already (the user may have changed it)."""
    if TAG not in experiment.tags:
        view = {
            "name": "accuracy against MACs",
            "createdAt": int(time.time() * 1000),
            "state": json.dumps(_state()),
        }
        client.set_experiment_tag(experiment.experiment_id, TAG, json.dumps(view))


def _state() -> dict[str, Any]:
    return {
        # a sweep's parent has no accuracy, and would fold its children out of the chart
        "searchFilter": "tags.kind = 'experiment'",
        "orderByKey": f"metrics.`{COMPUTE}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": COLUMNS,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "runListHidden": False,
        "compareRunSections": [_section()],
        "compareRunCharts": [_chart()],
    }


def _section() -> dict[str, Any]:
    return {
        "uuid": "front",
        "name": "Accuracy against MACs",
        "display": True,
        "isReordered": True,
        "columns": 1,
        "cardHeight": 520,
    }


def _chart() -> dict[str, Any]:
    return {
        "uuid": "accuracy-macs",
        "type": "SCATTER",
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": "front",
        "runsCountToCompare": 1000,
        "xaxis": {"key": COMPUTE, "type": "METRIC"},
        "yaxis": {"key": ACCURACY, "type": "METRIC"},
    }
