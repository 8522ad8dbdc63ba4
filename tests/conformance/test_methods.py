"""The contract of a method, held over every conf/method/*.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paredown import blueprint, execute, execution
from paredown.config import CONF, compose
from paredown.cost import count
from paredown.errors import UserError
from paredown.execute import Result
from paredown.experiment import Experiment, prepare
from paredown.export.certificate import compare
from paredown.export.check import Images, examine
from paredown.export.files import FORMATS, Source, format_of
from paredown.export.work import Reference
from paredown.plan import Fit, Hooks
from paredown.store import Store
from paredown.surgery.deploy import deploy, prove_equal

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
TARGETS = {"sparsity=0.7": "cost/sparsity", "speed_up=3": "cost/speed_up"}


def overrides(method: str, output: Path, *more: str) -> list[str]:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast"]
    cheap = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false", f"output={output}"]
    return [f"method={method}", *small, *cheap, *more]


def settings(method: str, output: Path) -> list[str]:
    """Overrides under which the method runs: its own knobs, or the first target it takes."""
    for more in ([], *([target] for target in TARGETS)):
        try:
            prepared(overrides(method, output, *more))
        except UserError:
            continue
        return overrides(method, output, *more)
    raise AssertionError(f"{method} takes neither its defaults nor a target")


def prepared(words: list[str]) -> Experiment:
    experiment = prepare(compose(words))
    assert experiment.steps
    return experiment


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def finished(method: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Experiment, list[str]]:
    words = settings(method, tmp_path_factory.mktemp(method))
    return execute.run(words), prepared(words), words


def test_an_unknown_key_is_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'colour'"):
        execute.run(overrides(method, tmp_path, "method.colour=red"))


def replaces_the_loss(stage: Fit) -> bool:
    """Whether a hook puts something else in the place of cross-entropy, which then need not fall."""
    return any(type(hook).loss is not Hooks.loss for hook in stage.hooks)


def test_every_stage_leaves_a_state_and_every_fit_a_loss(
    finished: tuple[Result, Experiment, list[str]],
) -> None:
    _, experiment, _ = finished
    for step in experiment.steps:
        record = experiment.store.record(step.key)
        assert len(record.history) == (step.stage.recipe.epochs if isinstance(step.stage, Fit) else 0)
        assert all(0 < row["train/loss"] < 100 for row in record.history)
        if isinstance(step.stage, Fit) and not replaces_the_loss(step.stage):
            assert record.history[-1]["train/loss"] < record.history[0]["train/loss"]


def test_deployed_computes_the_same_and_both_counters_agree(
    finished: tuple[Result, Experiment, list[str]],
) -> None:
    result, experiment, _ = finished
    module = blueprint.load(result.state).double()  # in fp32 folding factors rounds
    assert prove_equal(module, deploy(module), experiment.data.input_shape) < 1e-9
    cost = count(module, experiment.data.input_shape)  # raises where the counters disagree
    assert cost.macs == result.metrics["cost/macs"] and cost.params == result.metrics["cost/params"]


def test_the_result_has_every_promised_metric(finished: tuple[Result, Experiment, list[str]]) -> None:
    names = {"final/top1", "best/top1", "selected/top1", "cost/macs", "cost/params", "cost/speed_up"}
    names |= {"cost/compression", "cost/sparsity", "latency/ms", "latency/dense_ms", "latency/speed_up"}
    assert names <= set(finished[0].metrics)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_met_or_refused(method: str, target: str, tmp_path: Path) -> None:
    words = overrides(method, tmp_path, target)
    try:
        reached = execute.run([*words, "recipe.epochs=1"]).metrics[TARGETS[target]]
    except UserError as refusal:
        assert method in str(refusal) or target.split("=", maxsplit=1)[0] in str(refusal)
        return
    wanted = float(target.split("=")[1])
    assert reached == pytest.approx(wanted, abs=0.02 if wanted < 1 else 0.1 * wanted)


def test_a_changed_target_changes_a_key(method: str, tmp_path: Path) -> None:
    keys = []
    for target in ("sparsity=0.7", "sparsity=0.9"):
        try:
            keys.append([step.key for step in prepared(overrides(method, tmp_path, target)).steps])
        except UserError:
            return  # refused: `test_a_target_is_met_or_refused` holds how
    assert keys[0][-1] != keys[1][-1]


def test_a_kill_at_any_stage_boundary_changes_nothing(
    finished: tuple[Result, Experiment, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, experiment, words = finished
    put = Store.put
    again = [*words, f"output={tmp_path}"]
    for _ in experiment.steps:

        def put_and_die(*args: object) -> None:
            put(*args)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(Store, "put", put_and_die)
        with pytest.raises(KeyboardInterrupt):
            execute.run(again)
    monkeypatch.setattr(Store, "put", put)
    resumed = execute.run(again)
    ours, theirs = (blueprint.load(r.state).state_dict() for r in (resumed, result))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_what_is_exported_is_equal(finished: tuple[Result, Experiment, list[str]], form: str, tmp_path: Path) -> None:
    """The certificate's comparison, in this process; test_export.py proves the fresh one."""
    result, experiment, _ = finished
    network = blueprint.read(result.state)
    source = Source(network, execution.build(network, {}), {}, {"input": list(network.input_shape)})
    path = tmp_path / FORMATS[form]
    format_of(form).write(source, path)
    reference = Reference.of(network, experiment.data, "val")
    found = examine(form, path, Images(experiment.config["dataset"], "val"))
    entry = compare(path, found, 0, *reference, tolerance=1e-4)
    assert entry.equal and entry.equal_predictions == 1
    assert entry.active_macs == result.metrics["cost/macs"]


def test_a_card_exists(method: str) -> None:
    card = CONF.parent / "docs" / "methods" / f"{method}.md"
    assert card.is_file() and len(card.read_text()) > 500
