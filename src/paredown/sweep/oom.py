"""Workers killed by Ray's memory monitor, reported to Tune as worker deaths (retried) instead of trial errors."""

from __future__ import annotations

import re
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

KILLED = re.compile(r"Actor\((\w+)\):.*?actual memory used=([\d.]+)GB")
NODE = re.compile(r"was (\S+) used / (\S+) limit")


class ActorManager(RayActorManager):
    """Tune's actor manager, changed so that an out-of-memory kill fails one trial instead of the whole run."""

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, self._as_death(tracked_actor, exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, self._as_death(tracked_actor_task._tracked_actor, exception))

    def _as_death(self, tracked_actor: Any, exception: Exception) -> Exception:
        if not isinstance(exception, OutOfMemoryError):
            return exception
        actor, _ = self._live_actors_to_ray_actors_resources.get(tracked_actor, (None, None))
        return worker_death(str(exception), actor._actor_id.hex() if actor else "")


def worker_death(message: str, actor: str) -> RayActorError:
    """Return the death of `actor` as Ray's `message` describes it. It counts as a preemption, and not against the
    trial's retries, if another process killed at the same time used more memory."""
    used = {name: float(gigabytes) for name, gigabytes in KILLED.findall(message)}
    preempted = used.get(actor, float("inf")) < max(used.values(), default=0.0)
    node = " with {} of {} in use".format(*found.groups()) if (found := NODE.search(message)) else ""
    memory = f" at {used[actor]:g}GB" if actor in used else ""
    text = f"out of memory: Ray killed it{memory}, on a node{node}; with more resources.cpus each, fewer run at once"
    return RayActorError(actor, text, preempted=preempted)


def install() -> None:
    """Make Tune use `ActorManager`."""
    tune_controller.RayActorManager = ActorManager  # type: ignore[misc]
