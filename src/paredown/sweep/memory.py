"""What Ray's memory monitor kills, told to Tune as what it is: the death of a process, and perhaps not its fault."""

from __future__ import annotations

import re
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller

KILLED = re.compile(r"Actor\((\w+)\):.*?actual memory used=([\d.]+)GB")
NODE = re.compile(r"was (\S+) used / (\S+) limit")


class Actors(RayActorManager):
    """Tune's own, but that a process killed for memory fails its trial alone: unchanged, it ends the whole run."""

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, self._read(tracked_actor, exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, self._read(tracked_actor_task._tracked_actor, exception))

    def _read(self, tracked_actor: Any, exception: Exception) -> Exception:
        if not isinstance(exception, OutOfMemoryError):
            return exception
        actor, _ = self._live_actors_to_ray_actors_resources.get(tracked_actor, (None, None))
        return death(str(exception), actor._actor_id.hex() if actor else "")


def death(message: str, actor: str) -> RayActorError:
    """The death of `actor`, of which Ray says `message`. It is no try of its trial where another process that was
    killed with it had taken more memory."""
    taken = {name: float(gigabytes) for name, gigabytes in KILLED.findall(message)}
    innocent = taken.get(actor, float("inf")) < max(taken.values(), default=0.0)
    node = " with {} of {} in use".format(*found.groups()) if (found := NODE.search(message)) else ""
    own = f" at {taken[actor]:g}GB" if actor in taken else ""
    said = f"out of memory: Ray killed it{own}, on a node{node}; with more resources.cpus each, fewer run at once"
    return RayActorError(actor, said, preempted=innocent)


def install() -> None:
    """Let Tune use `Actors`."""
    tune_controller.RayActorManager = Actors  # type: ignore[misc]
