"""Whether an experiment fits, checked before Ray is asked: one that does not would wait forever, silently."""

from __future__ import annotations

import pytest

from paredown.core.errors import UserError
from paredown.sweep.resources import concurrent, require_capacity, trial_resources
from paredown.sweep.spec import Resources, Stop, Sweep

SMALL = [{"CPU": 3.0}, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}]


def across(workers=2, cpus=1.0, gpus=0.0, rule="none"):
    return Sweep("s", resources=Resources(cpus, gpus, workers, across_nodes=True), stop=Stop(rule))


@pytest.mark.parametrize(
    ("sweep", "fit"),
    [
        (across(2), 6),  # 12 workers of one CPU
        (across(2, cpus=2), 2),  # 1 + 0 + 4 workers: no CPU of a node serves another's
        (across(5, cpus=2), 1),
        (across(6, cpus=2), 0),
        (across(2, cpus=4, gpus=0.5), 1),  # two on the node with GPUs, for its CPUs
        (across(3, cpus=0.1, gpus=0.1), 6),  # 20 shares of a tenth
    ],
)
def test_how_many_experiments_fit(sweep, fit) -> None:
    assert concurrent(sweep, SMALL) == fit
    if fit:
        require_capacity(sweep, SMALL, dashboard=False)
        return
    with pytest.raises(
        UserError, match="6 workers of 2 CPUs each, but the nodes of this cluster have 3 CPUs and 0 GPUs; 1"
    ):
        require_capacity(sweep, SMALL, dashboard=False)


def test_on_one_node_each_the_rest_of_a_node_is_no_room() -> None:
    assert concurrent(Sweep("s", resources=Resources(workers=2)), SMALL) == 1 + 0 + 4
    assert concurrent(Sweep("s", resources=Resources(gpus=0.25)), SMALL) == 8


def test_the_waiting_trial_takes_nothing_that_a_worker_could_need() -> None:
    assert trial_resources(across()) == {"cpu": 0, "node:__internal_head__": 0.001}
    assert trial_resources(Sweep("s", resources=Resources(2, 0.5, 2))) == {"cpu": 4, "gpu": 1}


def test_workers_of_one_node_are_told_that_they_may_spread() -> None:
    with pytest.raises(UserError, match=r"9 CPUs on one node, but the most .* 8 CPUs .*resources.across_nodes=true"):
        require_capacity(Sweep("s", resources=Resources(1, 0, 9)), SMALL, dashboard=False)


def test_stopping_early_across_nodes_needs_the_dashboard() -> None:
    require_capacity(across(rule="asha"), SMALL, dashboard=True)
    require_capacity(Sweep("s", stop=Stop("asha")), SMALL, dashboard=False)  # on one node it does not matter
    with pytest.raises(UserError, match=r"cluster.dashboard=true"):
        require_capacity(across(rule="asha"), SMALL, dashboard=False)


def test_one_worker_has_nothing_to_spread() -> None:
    with pytest.raises(UserError, match=r"resources.across_nodes=True \(for 2 resources.workers or more\)"):
        across(workers=1)
