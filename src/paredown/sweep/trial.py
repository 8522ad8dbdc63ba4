"""The function that Ray runs. It imports little: workers unpickle it before they need torch."""

from __future__ import annotations

import json
from typing import Any


def trial(settings: dict[str, Any]) -> None:
    """Run one experiment in a Tune trial; `settings["spec"]` is its specification as JSON."""
    from ray import tune

    from paredown.core.lean import import_leanly

    import_leanly()
    from paredown.sweep.worker import perform  # torch and Lightning: once for each actor

    perform(json.loads(settings["spec"]), tune.report)
