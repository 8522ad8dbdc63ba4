"""Experiments from the outside: what is finished is never done again, whatever was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.deploy import deploy
from paredown.core.errors import UserError
from paredown.core.keys import digest
from paredown.experiment.prepare import prepare
from paredown.run import walk
from paredown.run.walk import Result
from paredown.runtime.optimise import build
from paredown.tracking.journal import Journal
from paredown.tracking.tracker import Tracker
from paredown.training import fit as fit_module
from paredown.training.evaluate import evaluate

RUN = Path(__file__).parents[2] / "src" / "run.py"
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.2", "recipe.epochs=3"]
CHEAP = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false"]


def words(output: Path, *more: str) -> list[str]:
    return [*SMALL, *CHEAP, f"output={output}", *more]


def weights(result: Result) -> dict[str, torch.Tensor]:
    return blueprint.load(result.state).state_dict()


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(RUN), *arguments], text=True, stderr=subprocess.PIPE)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fits that really train."""
    names: list[str] = []
    fit = fit_module.fit

    def counted(network: object, stage: object, *rest: object) -> object:
        names.append(stage.name)  # type: ignore[attr-defined]
        return fit(network, stage, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_module, "fit", counted)
    return names


def test_a_finished_experiment_returns_its_result_at_once(
    tmp_path: Path, fits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []  # fits before freed memory is kept
    monkeypatch.setattr(walk, "keep_freed", lambda: trained.append(len(fits)))
    arguments = words(tmp_path, "method=ssc", "sparsity=0.8")
    first = walk.run(arguments)
    assert trained == [0]
    started = time.perf_counter()
    again = walk.run(arguments)
    assert time.perf_counter() - started < 2  # under one on a quiet machine
    assert again.reused and again.metrics == first.metrics and again.state == first.state
    assert fits == ["train"]


def test_only_what_changed_is_trained(tmp_path: Path, fits: list[str]) -> None:
    walk.run(words(tmp_path))
    walk.run(words(tmp_path, "latency.batch=4"))  # another measurement of the same network
    optimised = walk.run(words(tmp_path, "deploy=auto"))
    assert fits == ["train"] and not optimised.reused
    choices = json.loads((optimised.folder / "tracking" / "files" / "execution.json").read_text())
    assert choices["batch"] == 32 and len(choices["layers"]) == 10
    build(blueprint.read(optimised.state), choices)
    walk.run(words(tmp_path, "seed=1"))
    walk.run(words(tmp_path, "recipe.weight_decay=0"))
    walk.run(words(tmp_path, "dataset.augment.crop=1"))
    assert fits == ["train"] * 4


def test_what_auto_became_is_recorded(tmp_path: Path) -> None:
    """So a run on its own and one in a sweep, which settles it, are one setting."""
    result = walk.run(words(tmp_path, "recipe.precision=auto"))
    recorded = json.loads((result.folder / "tracking" / "files" / "config.json").read_text())
    assert recorded["recipe"]["precision"] in ("32", "bf16")


def test_a_default_deployment_is_no_part_of_a_results_key(tmp_path: Path) -> None:
    experiment = prepare(compose(words(tmp_path)))
    assert experiment.key == digest([experiment.steps[-1].key, experiment.data.key, experiment.latency])
    with pytest.raises(UserError, match="deploy='fast': did you mean auto"):
        prepare(compose(words(tmp_path, "deploy=fast")))


def test_a_gain_is_told_where_the_dense_network_is_there(tmp_path: Path) -> None:
    """In one precision, fp32, whatever both were trained in: what stands on its own line is what is subtracted."""
    bf16 = words(tmp_path, "recipe.precision=bf16")
    dense = walk.run(bf16)
    found = walk.run([*bf16, "method=ssc", "sparsity=0.8"]).metrics
    for top in ("top1", "top5"):
        assert found[f"dense/{top}"] == dense.metrics[f"final/{top}"]
        assert found[f"gain/{top}"] == found[f"final/{top}"] - found[f"dense/{top}"]
        assert found[f"dense/best_{top}"] == dense.metrics[f"best/{top}"]
        assert found[f"gain/best_{top}"] == found[f"best/{top}"] - found[f"dense/best_{top}"]
    data = prepare(compose(bf16)).data
    loader = data.eval_loader("test", 100, "cpu")
    fp32 = evaluate(deploy(blueprint.read(dense.state).module), loader, torch.device("cpu"))
    assert fp32["loss"] == pytest.approx(dense.metrics["final/loss"], rel=1e-5)
    row = prepare(compose(bf16)).outcomes()[0].history[-1]
    assert abs(row["test/loss"] - fp32["loss"]) > 1e-6  # evaluated in bf16 while it was trained


def test_an_accuracy_is_computed_once_and_again_where_its_record_is_damaged(tmp_path: Path, monkeypatch) -> None:
    walk.run(words(tmp_path))
    experiment = prepare(compose(words(tmp_path)))
    key = experiment.steps[-1].key
    first = experiment.accuracy(key)
    monkeypatch.setattr("paredown.experiment.accuracy.evaluate", lambda *_: pytest.fail("it is there"))
    assert experiment.accuracy(key) == first
    (record,) = (experiment.store.shared / "accuracy").glob("*.json")
    monkeypatch.undo()
    for damaged in ("", "[]", '{"top1": 1}', '{"loss": null}'):
        record.write_text(damaged)
        assert experiment.accuracy(key) == first


def test_what_it_took_is_told_by_stage_and_each_layer_before_and_after(tmp_path: Path) -> None:
    result = walk.run(words(tmp_path, "method=ssc", "sparsity=0.8"))
    records, _ = Journal(result.folder).read()
    tags = {name: value for record in records for name, value in record.get("tags", {}).items()}
    edit, fit = json.loads(tags["price"])
    assert [edit["key"], fit["key"]] == [tags["stage/0_ssc"], tags["stage/1_train"]]
    rows = json.loads((result.state / "stage.json").read_text())["history"]
    assert fit["epochs"] == len(rows) == 3 and fit["seconds"] == pytest.approx(
        sum(row["seconds"] for row in rows), abs=5e-4
    )
    # digits: 1,797 images, a fifth of them test images; of the rest a tenth validates, a fifth of what is left trains
    trained = round(fit["macs"] / 3 / 3 / result.metrics["cost/macs"])
    assert 200 < trained < 300 and fit["macs"] == 3 * 3 * trained * result.metrics["cost/macs"]
    assert result.metrics["price/macs"] == fit["macs"] and result.metrics["price/epochs"] == 3
    layers = json.loads((result.folder / "tracking" / "files" / "layers.json").read_text())
    assert sum(row["macs"] for row in layers) == result.metrics["cost/macs"]
    assert sum(row["dense_macs"] for row in layers) == result.metrics["cost/dense_macs"]
    assert layers[0]["blueprint"] == {} and layers[1]["blueprint"]["kind"] == "ssc"


def test_a_plan_is_transferred(tmp_path: Path, fits: list[str]) -> None:
    other = ["dataset@transfer.dataset=digits", "transfer.dataset.fraction=0.1", "method=ssc", "sparsity=0.8"]
    walk.run(words(tmp_path, *other))
    assert fits == ["train"]
    result = walk.run(words(tmp_path, *other, "transfer.mode=finetune"))
    assert fits == ["train", "train", "transfer"] and result.metrics["cost/sparsity"] > 0.79


def test_no_transfer_between_data_sets_of_other_classes(tmp_path: Path) -> None:
    other = ["dataset@transfer.dataset=digits", "transfer.dataset.classes=5"]
    with pytest.raises(UserError, match=r"no transfer from num_classes 5 to 10: take as many with dataset\.classes=N"):
        walk.run(words(tmp_path, *other))


def test_a_state_damaged_on_disk_is_named(tmp_path: Path) -> None:
    result = walk.run(words(tmp_path))
    (result.state / blueprint.WEIGHTS).write_bytes(b"short")
    arguments = words(tmp_path, "latency.batch=4")  # another measurement needs the network itself
    with pytest.raises(UserError, match=r"cannot be read.*delete that folder"):
        walk.run(arguments)
    shutil.rmtree(result.state)
    assert walk.run(arguments).metrics["final/top1"] == result.metrics["final/top1"]


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_in_a_fit_and_run_again_ends_bit_equal(tmp_path: Path, blow: signal.Signals) -> None:
    more = ["recipe.epochs=40", "trainer.checkpoint_seconds=0", "method=ssc", "sparsity=0.8"]
    arguments = words(tmp_path / "cut", *more)
    process = start(arguments)
    while not list((tmp_path / "cut").rglob("last.safetensors")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid, blow)
    _, errors = process.communicate(timeout=60)
    if blow != signal.SIGKILL:
        assert process.returncode == 130 and errors.strip().endswith("goes on from the last checkpoint")
    assert not list((tmp_path / "cut").rglob("result.json"))
    assert start(arguments).wait(timeout=300) == 0
    resumed, whole = walk.run(arguments), walk.run(words(tmp_path / "whole", *more))
    assert resumed.reused
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())


@pytest.mark.slow
def test_two_at_once_train_once(tmp_path: Path) -> None:
    arguments = words(tmp_path, "recipe.epochs=20")
    processes = [start(arguments) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    records = list(tmp_path.rglob("stage.json"))
    assert len(records) == 1 and len(json.loads(records[0].read_text())["history"]) == 20
    assert len(list(tmp_path.rglob("result.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", [[], ["method=ssc", "sparsity=0.8"]], ids=["dense", "ssc"])
def test_two_ranks_equal_one_process_up_to_batch_norm(tmp_path: Path, method: list[str]) -> None:
    more = [*method, "recipe.epochs=12", "dataset.fraction=1.0", "trainer.accelerator=cpu"]
    one = walk.run(words(tmp_path / "one", *more))
    two = walk.run(words(tmp_path / "two", *more, "trainer=ddp", "trainer.progress=false"))
    assert [path.name for path in (tmp_path / "two" / "store").rglob("stage.json")] == ["stage.json"] * (
        1 + bool(method)
    )
    assert two.metrics["cost/macs"] == one.metrics["cost/macs"]
    assert two.metrics["final/top1"] == pytest.approx(one.metrics["final/top1"], abs=6)
    ours, theirs = (blueprint.read(result.state) for result in (one, two))
    assert ours.blueprint == theirs.blueprint
    for name, buffer in ours.module.named_buffers():
        if buffer.dtype is torch.bool:
            assert torch.equal(buffer, theirs.module.get_buffer(name))


def test_a_published_row_is_run_from_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prepared(Exception):
        """Ends the run once its configuration is known."""

    def prepare(config: dict[str, Any]) -> None:
        assert (config["names"]["method"], config["sparsity"], config["seed"]) == ("ssc", 0.9, 2)
        assert config["model"]["width"] == 2 and config["dataset"]["validation"] == 0
        raise Prepared

    monkeypatch.setattr(walk, "prepare", prepare)
    with pytest.raises(Prepared):
        walk.run(["reproduce=ssc/table1/125", "tracking=off", "seed=2"])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("no `room`\nleft"), "FAILED", "**The last attempt failed.** `RuntimeError: no 'room' left`"),
        (KeyboardInterrupt(), "KILLED", "The last attempt was interrupted"),
    ],
)
def test_the_page_of_a_run_that_ended_says_why(error, status, said, tmp_path, monkeypatch) -> None:
    named = SimpleNamespace(settled={}, steps=(), title="ssc speed_up=4 seed=0 resnet20 digits")
    monkeypatch.setattr("paredown.results.provenance.tags", lambda experiment: {"folder": "ssc-0"})
    with pytest.raises(type(error)), walk._recorded(named, Tracker(tmp_path, None)):
        raise error
    start, *_, finish = Journal(tmp_path).read()[0]
    assert (start["name"], start["tags"]["folder"]) == (named.title, "ssc-0")
    assert finish["status"] == status and finish["tags"][walk.NOTE].startswith(said)
