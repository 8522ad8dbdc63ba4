"""The provenance of a result: what a run is found by, and the code and packages that made it."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from paredown import __version__
from paredown.cost.latency import device_name
from paredown.experiment.controls import Control
from paredown.experiment.experiment import Experiment
from paredown.tracking.view import FOLDER, IMAGES


def tags(experiment: Experiment) -> dict[str, str]:
    """Return the tags that a run is found by."""
    keys = {f"stage/{index}_{step.stage.name}": step.key for index, step in enumerate(experiment.steps)}
    more = {
        "seed": str(experiment.seed),
        "target": str(experiment.target) if experiment.target else "none",
        "device": device_name(experiment.device),
        IMAGES: experiment.data.fingerprint,
        "code": _code_version(),
        FOLDER: experiment.folder.name,
    }
    if isinstance(experiment.method, Control):
        more |= {"control": experiment.method.kind, "control/of": experiment.method.name}
    if experiment.config["reproduce"]:
        more["reproduce"] = experiment.config["reproduce"]
    return experiment.names | more | keys


@cache  # a process runs what it imported, whatever is committed meanwhile
def _code_version() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # not a checkout
        return __version__
    return f"{__version__}+{found}"


@cache  # reading them takes longer than a small trial's training
def environment() -> str:
    """List the installed packages, one `name==version` a line."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}))
