"""The conditions under which a bench timed a run, as tags of that run: times of several are not comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BENCHED = "bench/"  # metrics that a bench timed, such as bench/ms_b32, and these tags
CONDITIONS, QUIET = "bench/conditions", "bench/quiet"
USUAL = "threads=1 deploy=auto on "


def tags(batches: Iterable[int], threads: int, deploy: str, device: str, quiet: bool) -> dict[str, str]:
    """Return the tags of a run that a bench timed on `device`, `quiet` where nothing else ran: two for each number of
    images, as a later bench may time others under other conditions."""
    found = {}
    for batch in batches:
        found[f"{CONDITIONS}_b{batch}"] = f"threads={threads} deploy={deploy} on {device}"
        found[f"{QUIET}_b{batch}"] = str(quiet)
    return found


def conditions(tags: Mapping[str, str], metric: str) -> str:
    """Return the conditions of `metric` of a run with `tags`; '' where an older version recorded none."""
    return tags.get(f"{CONDITIONS}_{_batch(metric)}", "")


def loud(tags: Mapping[str, str], metric: str) -> bool:
    """Return whether `metric` of a run with `tags` was timed while other things ran, as far as that was recorded."""
    return tags.get(f"{QUIET}_{_batch(metric)}") == str(False)


def usual(tags: Mapping[str, str], metric: str) -> bool:
    """Return whether `metric` of a run with `tags` was timed as a leaderboard's are: on one thread, each layer in its
    fastest form. What an older version timed is taken to be so."""
    found = conditions(tags, metric)
    return not found or found.startswith(USUAL)


def _batch(metric: str) -> str:
    return metric.rpartition("_")[2]
