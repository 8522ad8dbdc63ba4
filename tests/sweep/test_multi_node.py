"""Workers of one experiment on two nodes, through Ray Train: the network that DDP gives alone, and nothing hangs."""

from __future__ import annotations

import pytest
import torch
from driving import Driver, epochs_recorded, runs
from nodes import Node

from paredown.core import blueprint
from paredown.run import walk
from paredown.sweep.planning import plan
from paredown.sweep.spec import load

pytestmark = pytest.mark.slow
GRID = "grid: {method: [ssc], sparsity: [0.8]}\n"


@pytest.fixture(scope="module")
def two_nodes():
    head = Node()
    other = Node(head.address)
    yield head
    other.kill()
    head.kill()


def test_two_workers_on_two_nodes_give_what_ddp_gives_alone(written, tmp_path, two_nodes) -> None:
    words = [*written(GRID), "resources.workers=2", "resources.across_nodes=true"]
    first = plan(load(words)).experiments[0]
    sweep = Driver([*words, "cluster=ray", f"cluster.address={two_nodes.address}"])
    assert "1 of 1 experiments done" in sweep.wait()
    assert runs(sweep.output / "mlflow.db") == {"experiment FINISHED": 1, "sweep FINISHED": 1}
    assert epochs_recorded(sweep.output / "mlflow.db") == [2]
    alone = walk.run([*first.overrides, f"output={tmp_path / 'alone'}", "trainer=ddp", "trainer.accelerator=cpu"])
    key = first.experiment.steps[-1].key
    found = blueprint.load(first.experiment.store.folder(key)).state_dict()
    expected = blueprint.load(alone.state).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_more_workers_than_the_cluster_has_are_refused(written, two_nodes) -> None:
    words = [*written(GRID), "resources.workers=3", "resources.across_nodes=true"]
    sweep = Driver([*words, "cluster=ray", f"cluster.address={two_nodes.address}"])
    assert "3 workers of 1 CPU each, but the nodes of this cluster have 1 CPU and 0 GPUs; 1 CPU" in sweep.wait(code=2)
