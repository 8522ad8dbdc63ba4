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

import pytest
import torch

from paredown import blueprint, execute, execution
from paredown.config import compose
from paredown.errors import UserError
from paredown.execute import Result
from paredown.experiment import prepare
from paredown.plan import digest
from paredown.tracking.journal import Journal
from paredown.training import fit as fit_module

RUN = Path(__file__).parents[1] / "src" / "run.py"
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


def test_a_finished_experiment_returns_its_result_at_once(tmp_path: Path, fits: list[str]) -> None:
    arguments = words(tmp_path, "method=ssc", "sparsity=0.8")
    first = execute.run(arguments)
    started = time.perf_counter()
    again = execute.run(arguments)
    assert time.perf_counter() - started < 2  # under one on a quiet machine
    assert again.reused and again.metrics == first.metrics and again.state == first.state
    assert fits == ["train"]


def test_only_what_changed_is_trained(tmp_path: Path, fits: list[str]) -> None:
    execute.run(words(tmp_path))
    execute.run(words(tmp_path, "latency.batch=4"))  # another measurement of the same network
    optimised = execute.run(words(tmp_path, "deploy=auto"))
    assert fits == ["train"] and not optimised.reused
    choices = json.loads((optimised.folder / "tracking" / "files" / "execution.json").read_text())
    assert choices["batch"] == 32 and len(choices["layers"]) == 10
    execution.build(blueprint.read(optimised.state), choices)
    execute.run(words(tmp_path, "seed=1"))
    execute.run(words(tmp_path, "recipe.weight_decay=0"))
    execute.run(words(tmp_path, "dataset.augment.crop=1"))
    assert fits == ["train"] * 4


def test_what_auto_became_is_recorded(tmp_path: Path) -> None:
    """So a run on its own and one in a sweep, which settles it, are one setting."""
    result = execute.run(words(tmp_path, "recipe.precision=auto"))
    recorded = json.loads((result.folder / "tracking" / "files" / "config.json").read_text())
    assert recorded["recipe"]["precision"] in ("32", "bf16")


def test_results_from_before_deploy_could_be_chosen_are_found(tmp_path: Path) -> None:
    experiment = prepare(compose(words(tmp_path)))
    assert experiment.key == digest([experiment.steps[-1].key, experiment.data.key, experiment.config["latency"]])
    with pytest.raises(UserError, match="deploy='fast': did you mean auto"):
        prepare(compose(words(tmp_path, "deploy=fast")))


def test_a_gain_is_told_where_the_dense_network_is_there(tmp_path: Path) -> None:
    dense = execute.run(words(tmp_path)).metrics["final/top1"]
    metrics = execute.run(words(tmp_path, "method=ssc", "sparsity=0.8")).metrics
    assert metrics["dense/top1"] == pytest.approx(dense)
    assert metrics["gain/top1"] == pytest.approx(metrics["final/top1"] - dense)


def test_what_it_took_is_told_by_stage_and_each_layer_before_and_after(tmp_path: Path) -> None:
    result = execute.run(words(tmp_path, "method=ssc", "sparsity=0.8"))
    records, _ = Journal(result.folder).read()
    tags = {name: value for record in records for name, value in record.get("tags", {}).items()}
    edit, fit = json.loads(tags["price"])
    assert [edit["key"], fit["key"]] == [tags["stage/0_ssc"], tags["stage/1_train"]]
    rows = json.loads((result.state / "stage.json").read_text())["history"]
    assert fit["epochs"] == len(rows) == 3 and fit["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))
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
    execute.run(words(tmp_path, *other))
    assert fits == ["train"]
    result = execute.run(words(tmp_path, *other, "transfer.mode=finetune"))
    assert fits == ["train", "train", "transfer"] and result.metrics["cost/sparsity"] > 0.79


def test_no_transfer_between_data_sets_of_other_classes(tmp_path: Path) -> None:
    other = ["dataset@transfer.dataset=digits", "transfer.dataset.classes=5"]
    with pytest.raises(UserError, match=r"no transfer from num_classes 5 to 10: take as many with dataset\.classes=N"):
        execute.run(words(tmp_path, *other))


def test_a_state_damaged_on_disk_is_named(tmp_path: Path) -> None:
    result = execute.run(words(tmp_path))
    (result.state / blueprint.WEIGHTS).write_bytes(b"short")
    arguments = words(tmp_path, "latency.batch=4")  # another measurement needs the network itself
    with pytest.raises(UserError, match=r"holds no readable network.*delete that folder"):
        execute.run(arguments)
    shutil.rmtree(result.state)
    assert execute.run(arguments).metrics["final/top1"] == result.metrics["final/top1"]


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
    resumed, whole = execute.run(arguments), execute.run(words(tmp_path / "whole", *more))
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
    one = execute.run(words(tmp_path / "one", *more))
    two = execute.run(words(tmp_path / "two", *more, "trainer=ddp", "trainer.progress=false"))
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
