"""The resources that an experiment needs, and whether a cluster has them."""

from __future__ import annotations

from paredown.core.errors import UserError
from paredown.sweep.spec import Resources, Sweep

Amounts = dict[str, float]


def trial_resources(sweep: Sweep) -> Amounts:
    """Return what Tune reserves for one experiment. Workers across nodes are reserved by Ray Train: the trial that
    waits for them takes a slot on the head node and nothing a worker could need, or the two could deadlock."""
    resources = sweep.resources
    if resources.across_nodes:
        return {"cpu": 0, "node:__internal_head__": 0.001}
    gpus = {"gpu": resources.gpus * resources.workers} if resources.gpus else {}
    return {"cpu": resources.cpus * resources.workers} | gpus


def worker_resources(resources: Resources) -> Amounts:
    """Return what one worker needs, under Ray's resource names."""
    return {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})


def concurrent(sweep: Sweep, nodes: list[Amounts]) -> int:
    """Return how many experiments fit on `nodes` (the resources of each) at the same time."""
    needs, workers = worker_resources(sweep.resources), sweep.resources.workers
    slots = [int(min(node.get(name, 0) / amount for name, amount in needs.items()) + 1e-9) for node in nodes]
    return sum(slots) // workers if sweep.resources.across_nodes else sum(slot // workers for slot in slots)


def require_capacity(sweep: Sweep, nodes: list[Amounts], dashboard: bool) -> None:
    """Raise UserError if an experiment never fits on one of `nodes`, or across all of them, or if `stop` needs a
    `dashboard` that is missing."""
    resources = sweep.resources
    if not concurrent(sweep, nodes) and not resources.across_nodes:
        needs = {name: amount * resources.workers for name, amount in worker_resources(resources).items()}
        best = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
        more = " (or resources.across_nodes=true)" if resources.workers > 1 else ""
        raise UserError(
            f"one experiment asks for {_amounts(needs)} on one node, but the most a node of this cluster has is "
            f"{_amounts(best)}: lower resources.cpus, resources.gpus or resources.workers{more}"
        )
    if not concurrent(sweep, nodes):
        available = "; ".join(_amounts({name: node.get(name, 0) for name in ("CPU", "GPU")}) for node in nodes)
        each = _amounts(worker_resources(resources))
        raise UserError(
            f"one experiment asks for {resources.workers} workers of {each} each, but the nodes of this cluster "
            f"have {available}: lower resources.workers, resources.cpus or resources.gpus"
        )
    if resources.across_nodes and sweep.stop.rule != "none" and not dashboard:
        raise UserError(
            "resources.across_nodes with stop.rule needs a cluster with its dashboard (cluster.dashboard=true, or "
            "ray start --head --include-dashboard=true): without it Ray leaves the workers of what it stops running"
        )


def _amounts(resources: Amounts) -> str:
    return " and ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for name, amount in resources.items())
