"""Whole sweeps on Ray, as a person runs them: the fits counted, rules that stop early, a job, a store of objects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
from driving import EPOCHS, LONG, ROOT, Driver, environment, epochs_recorded, fits, runs, starts
from nodes import Node

from mlflow_server import free_port

pytestmark = pytest.mark.slow
SHORT = ["recipe.epochs=1", "dataset.fraction=0.02", "latency.seconds=0.001"]


def test_4_decays_and_6_energies_make_29_fits_on_ray(written) -> None:
    grid = "grid: {method: [svd_training], method.decay: [0.01, 0.03, 0.1, 0.3], "
    grid += "method.energy: [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]}\n"
    sweep = Driver([*written(grid), *SHORT])
    assert "24 of 24 experiments done, 0 of them before; 0 failed; 29 trainings" in sweep.wait()
    assert fits(sweep.output) == 1 + 4 + 24 and starts(sweep.output) == [1] * 24
    records = [json.loads(path.read_text()) for path in sweep.output.glob("store/*/*/stage.json")]
    assert sorted(len(record["history"]) for record in records if record["history"]) == [1] * 29
    assert runs(sweep.output / "mlflow.db") == {"experiment FINISHED": 24, "sweep FINISHED": 1}


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_what_lags_behind_is_stopped_and_stays_so(written, workers) -> None:
    rates = [0.1, 0.05, 1e-6, 2e-6, 3e-6, 4e-6][workers - 1 :: workers]  # starting ranks takes its time
    text = f"grid: {{recipe.learning_rate: {rates}}}\nstop: {{rule: asha, grace: 2}}\n"
    arguments = [*written(text), "recipe.epochs=5", "latency.seconds=0.001", f"resources.workers={workers}"]
    sweep = Driver(arguments)
    said = sweep.wait()
    stopped = int(said.split(" stopped early; 0 failed")[0].split()[-1])
    done = len(sweep.results())
    assert stopped >= 1 and done >= 1 and stopped + done == len(rates)
    database = sweep.output / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": done, "experiment KILLED": stopped, "sweep FINISHED": 1}
    assert (
        f"{done} of {len(rates)} experiments done, {done} of them before; {stopped} stopped early; 0 failed; 0 train"
        in (Driver(arguments).wait())
    )


def test_a_job_submitted_to_a_head_runs_a_sweep(written, tmp_path) -> None:
    head = Node(dashboard=True)
    try:
        shipped = tmp_path / "shipped"
        for name in ("src", "conf", "sweeps"):
            shutil.copytree(ROOT / name, shipped / name, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.jobs]
        command += ["--working-dir", str(shipped), "--", "python", "src/sweep.py", *written("seeds: [0, 1]\n")]
        ended = subprocess.run(
            [*command, *SHORT, "cluster=ray"], env=environment(), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0 and "2 of 2 experiments done" in ended.stdout, ended.stdout + ended.stderr
        assert "succeeded" in ended.stdout
    finally:
        head.kill()
    assert runs(tmp_path / "out" / "mlflow.db") == {"experiment FINISHED": 2, "sweep FINISHED": 1}


@pytest.fixture
def objects(monkeypatch) -> str:
    """Start an S3 server; yield the URL of a folder in a bucket of it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    address = f"http://127.0.0.1:{(port := free_port())}"
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": address}).items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    for _ in range(100):
        try:
            fs.mkdir("paredown")
            break
        except OSError:
            time.sleep(0.2)
    yield "s3://paredown/x"
    server.kill()
    server.wait()


@pytest.mark.long
def test_a_node_dies_with_all_it_had_and_objects_are_enough_for_another_and_for_a_new_cluster(
    written, tmp_path, objects
) -> None:
    if subprocess.run(["unshare", "-m", "-p", "--fork", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to hide folders and processes from each other")
    (tmp_path / "out").mkdir()
    head = Node()
    nodes = [head, Node(head.address, own=tmp_path / "out")]
    try:
        words = [*written("seeds: [0, 1, 2]\n"), *LONG, f"store={objects}", "cluster=ray"]
        sweep = Driver([*words, f"cluster.address={head.address}"])
        sweep.until(lambda: len(epochs_pushed(objects)) == 2)  # each node trains, and one hides its checkpoints from us
        nodes[1].kill()
        nodes.append(Node(head.address, own=tmp_path / "out"))
        said = sweep.wait()
    finally:
        nodes[-1].kill()
        head.kill()
    assert "3 of 3 experiments done, 0 of them before; 0 failed; 3 trainings" in said
    assert runs(sweep.output / "mlflow.db") == {"experiment FINISHED": 3, "sweep FINISHED": 1}
    assert epochs_recorded(sweep.output / "mlflow.db") == [EPOCHS] * 3
    assert sorted(starts(sweep.output)) == [1, 1, 2]
    assert len(sweep.results()) == 3 and 0 < fits(sweep.output) < 3  # the other nodes' states were not needed here
    there = [word for word in words if not word.startswith(("output=", "cluster="))]
    (tmp_path / "new").mkdir()
    again = Driver([*there, f"output={tmp_path / 'new' / 'out'}"])
    assert "3 of 3 experiments done, 3 of them before; 0 failed; 0 trainings" in again.wait()
    assert runs(tmp_path / "new" / "out" / "mlflow.db") == {"experiment FINISHED": 3, "sweep FINISHED": 1}


def epochs_pushed(objects: str) -> list[str]:
    """Return the journals in the bucket that have an epoch."""
    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    journals = [name for name in fs.find(objects) if name.endswith("journal.jsonl") and "/experiments/" in name]
    return [name for name in journals if b"train/loss" in fs.cat_file(name)]
