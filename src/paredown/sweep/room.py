"""What an experiment takes of a cluster, and whether the cluster has it."""

from __future__ import annotations

from paredown.errors import UserError
from paredown.sweep.file import Sweep

Amounts = dict[str, float]


def resources_of(sweep: Sweep) -> Amounts:
    """What Tune sets aside for one experiment. Ray Train sets aside by itself what workers across nodes take: the
    trial that waits for them takes a place on the head and nothing that they could need, or both would wait forever."""
    resources = sweep.resources
    if resources.across_nodes:
        return {"cpu": 0, "node:__internal_head__": 0.001}
    gpus = {"gpu": resources.gpus * resources.workers} if resources.gpus else {}
    return {"cpu": resources.cpus * resources.workers} | gpus


def worker_of(sweep: Sweep) -> Amounts:
    """What one worker takes, in Ray's names."""
    return {"CPU": sweep.resources.cpus} | ({"GPU": sweep.resources.gpus} if sweep.resources.gpus else {})


def concurrent(sweep: Sweep, nodes: list[Amounts]) -> int:
    """How many experiments fit on `nodes` (each its resources) at once, each on one node or across them."""
    needs, workers = worker_of(sweep), sweep.resources.workers
    places = [int(min(node.get(name, 0) / amount for name, amount in needs.items()) + 1e-9) for node in nodes]
    return sum(places) // workers if sweep.resources.across_nodes else sum(place // workers for place in places)


def require_room(sweep: Sweep, nodes: list[Amounts], dashboard: bool) -> None:
    """Raises UserError for an experiment that none of `nodes`, or across nodes all of them, ever has room for."""
    resources = sweep.resources
    if not concurrent(sweep, nodes) and not resources.across_nodes:
        needs = {name: amount * resources.workers for name, amount in worker_of(sweep).items()}
        best = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
        more = " (or resources.across_nodes=true)" if resources.workers > 1 else ""
        raise UserError(
            f"one experiment asks for {_amounts(needs)} on one node, but the most a node of this cluster has is "
            f"{_amounts(best)}: lower resources.cpus, resources.gpus or resources.workers{more}"
        )
    if not concurrent(sweep, nodes):
        there = "; ".join(_amounts({name: node.get(name, 0) for name in ("CPU", "GPU")}) for node in nodes)
        raise UserError(
            f"one experiment asks for {resources.workers} workers of {_amounts(worker_of(sweep))} each, but the nodes "
            f"of this cluster have {there}: lower resources.workers, resources.cpus or resources.gpus"
        )
    if resources.across_nodes and sweep.stop.rule != "none" and not dashboard:
        raise UserError(
            "resources.across_nodes with stop.rule needs a cluster with its dashboard (cluster.dashboard=true, or "
            "ray start --head --include-dashboard=true): without it Ray leaves the workers of what it stops running"
        )


def _amounts(resources: Amounts) -> str:
    return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in resources.items())
