"""The saved charts of an MLflow experiment: accuracy over compute, one point per run, each opened by one link.

MLflow's landing page is empty for such experiments. Its saved views are experiment tags of an undocumented format
(taken from MLflow 3.17's interface): hence the upper bound on its version and the test in a browser.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

KEY, NAME = "paredown", "accuracy against MACs"
# a sweep's parent run has no accuracy, and would collapse its children out of the chart
EXPERIMENTS = "tags.kind = 'experiment'"
LONGEST = 100  # characters of an address
TRAINING = "workflowType=machine_learning"  # without it MLflow shows its pages for language models
TAG = "mlflow.sharedViewState."
# MLflow opens its assistant at localhost, 127.0.0.1 and ::1, and no setting of its server prevents that: browsers take
# any name below localhost for this machine (RFC 6761)
HOST = "paredown.localhost"
ADDRESS = "dashboard.url"  # in the output folder: where `make dashboard` last served it
DEFAULT_PORT = 5000
COMPUTE, ACCURACY = "cost/macs", "final/top1"
FOLDER = "folder"  # tag of a run: the name of the experiment's folder
IMAGES = "images"  # tag of a run: what its data set holds, whatever it is called
CERTIFIED = "certified"  # tag of a run: the formats in which its network was exported and found equal
CERTIFICATE = "export/certificate.json"  # artifact of such a run
COLUMNS = [f"metrics.`{name}`" for name in (ACCURACY, COMPUTE, "cost/params", "latency/ms")]
COLUMNS += [f"tags.`{name}`" for name in ("method", "control", "model", "dataset")]


def local_server(output: Path) -> str:
    """Return the address at which `make dashboard` serves the records in `output`: where it last did, or by default."""
    try:
        recorded = (output / ADDRESS).read_text(encoding="utf-8")[:LONGEST]
    except (OSError, UnicodeError):  # never served yet
        recorded = ""
    found = re.fullmatch(rf"http://{re.escape(HOST)}:[0-9]{{1,5}}", recorded.strip())
    return found[0] if found else f"http://{HOST}:{DEFAULT_PORT}"


def view_link(server: str, experiment_id: str, key: str = KEY) -> str:
    """Return the address at which `server` (http://HOST:PORT) shows the saved chart `key`."""
    query = f"viewStateShareKey={key}&compareRunsMode=CHART&{TRAINING}"
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Return the address of the run's page."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def artifact_link(server: str, experiment_id: str, run_id: str, path: str) -> str:
    """Return the address at which `server` shows the artifact `path` of the run."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}?{TRAINING}"


def save_view(
    client: MlflowClient, experiment: Experiment, key: str = KEY, name: str = NAME, only: str = EXPERIMENTS
) -> None:
    """Add the saved chart `key` of the runs `only` to `experiment`, unless it has it: the user may have changed it."""
    if f"{TAG}{key}" not in experiment.tags:
        view = {
            "name": name,
            "createdAt": int(time.time() * 1000),
            "state": json.dumps(_state(only)),
        }
        client.set_experiment_tag(experiment.experiment_id, f"{TAG}{key}", json.dumps(view))


def _state(only: str) -> dict[str, Any]:
    return {
        "searchFilter": only,
        "orderByKey": "tags.`method`",  # the list of runs beside the chart is its legend
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
        "cardHeight": 440,
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
