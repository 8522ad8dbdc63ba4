"""The function that Ray runs; light, since it is unpickled before anything is known to be needed."""

from __future__ import annotations

import json
from typing import Any


def trial(settings: dict[str, Any]) -> None:
    """One experiment in a Tune trial: `settings["work"]` is its specification as JSON."""
    from ray import tune

    from paredown.sweep.work import perform  # torch and Lightning: once for each actor

    perform(json.loads(settings["work"]), tune.report)
