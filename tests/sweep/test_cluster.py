"""Sweeps on an existing Ray cluster: nodes that die and join, and connections that fail."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import pytest
from driving import EPOCHS, LONG, SWEEP, TOKEN, Driver, children, environment, epochs_recorded, fits, runs
from nodes import Node

from paredown.core.errors import UserError
from paredown.sweep import cluster
from paredown.sweep.spec import load

SEEDS = "seeds: [0, 1, 2, 3]\n"


@pytest.fixture(scope="module")
def head():
    node = Node()
    yield node
    node.kill()


@pytest.mark.slow
def test_a_node_dies_another_joins_and_nothing_is_lost(written, head) -> None:
    other = Node(head.address)
    nodes = [other]
    try:
        sweep = Driver([*written(SEEDS), *LONG, "cluster=ray", f"cluster.address={head.address}"])
        sweep.until(lambda: len(sweep.checkpoints()) >= 2)  # one fit on each node
        other.kill()
        nodes.append(Node(head.address))
        said = sweep.wait()
    finally:
        nodes[-1].kill()
    assert "4 of 4 experiments done" in said and fits(sweep.output) == 4
    database = sweep.output / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": 4, "sweep FINISHED": 1} and children(database) == 4
    assert epochs_recorded(database) == [EPOCHS] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "token", "message"),
    [
        (["resources.cpus=64"], TOKEN, "one experiment asks for 64 CPUs on one node, but the most a node"),
        (["resources.gpus=1"], TOKEN, "0 GPUs"),
        ([], "f" * 64, "answers, but refuses us: is RAY_AUTH_TOKEN its token"),
    ],
)
def test_a_cluster_that_will_not_do_is_refused_in_one_line(written, head, more, token, message) -> None:
    words = [*written(SEEDS), "cluster=ray", f"cluster.address={head.address}", *more]
    ended = subprocess.run(
        [sys.executable, str(SWEEP), *words],
        env=environment() | {"RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    last = ended.stderr.splitlines()[-1]  # of a wrong token Ray's own library has something to say before
    assert ended.returncode == 2 and last.startswith("paredown: ") and message in last
    told = [line for line in ended.stdout.splitlines() if not line.startswith("recipe.precision=auto: ")]
    assert "Traceback" not in ended.stderr and not told


def joining(written, monkeypatch, address):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.connect(load([*written(SEEDS), "cluster=ray", f"cluster.address={address}"]))


def test_an_address_where_nothing_answers(written, monkeypatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=f"no Ray answers at cluster.address=127.0.0.1:{port}: connection refused"):
        joining(written, monkeypatch, f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["head", "ray://head:10001x"])
def test_an_address_that_is_none(written, monkeypatch, address) -> None:
    with pytest.raises(UserError, match="is no address: give auto, or HOST:PORT"):
        joining(written, monkeypatch, address)


def test_a_cluster_without_a_token_of_ours(written, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN"):
        cluster.connect(load([*written(SEEDS), "cluster=ray"]))


def test_another_version_of_ray_is_named(written, monkeypatch) -> None:
    import ray

    def refuse(**settings):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.0.0\n    Python: 3.11.7")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(UserError, match=r"cannot be used: Version mismatch.*Ray: 2.0.0 Python: 3.11.7"):
            joining(written, monkeypatch, f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(("slow", "tries"), [(1, 2), (9, 3)])
def test_a_ray_that_does_not_start_in_time_is_started_again(monkeypatch, slow, tries) -> None:
    import ray

    tried: list[int] = []

    def init(**settings: object) -> str:
        tried.append(len(tried))
        if len(tried) <= slow:
            raise Exception("The current node timed out during startup. This could happen because ...")
        return "started"

    monkeypatch.setattr(ray, "init", init)
    expected = contextlib.nullcontext() if slow < tries else pytest.raises(UserError, match="3 times in a row")
    with expected:
        assert cluster._start(dashboard=False) == "started"
    assert len(tried) == tries
