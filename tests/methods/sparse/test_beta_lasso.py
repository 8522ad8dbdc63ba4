"""beta-LASSO end to end: what it plans, leaves, counts, draws and refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.experiment.prepare import prepare
from paredown.layers.masked import Masked
from paredown.methods.sparse.beta_lasso import BetaLasso, mask_zeros, pack
from paredown.run import walk
from paredown.training.hooks.beta_lasso import BetaLassoSteps

SMALL = [
    "dataset=digits",
    "model=s_fc",
    "model.alpha=2",
    "recipe=beta_lasso",
    "recipe.epochs=4",
    "recipe.batch_size=64",
]
QUIET = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false"]
STRONG = ["method.decay_conv=1e-4", "method.decay_fc=2e-4"]


class Data:
    sizes = {"train": 100}  # noqa: RUF012


CONTEXT = Context(Data(), torch.device("cpu"), 0)


def network(connection: str = "fc") -> Network:
    torch.manual_seed(0)
    architecture = {
        "_target_": "paredown.models.cifar.counterparts.counterpart",
        "family": "s",
        "connection": connection,
        "alpha": 2,
        "image_size": [8, 8],
    }
    return blueprint.create(architecture, (3, 8, 8))


def prepared(output: Path, *more: str):
    return prepare(compose(["method=beta_lasso", *SMALL, *QUIET, f"output={output}", *more]))


def test_the_plan_is_one_fit_with_its_own_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paredown")
    recipe = Recipe(epochs=3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    fit, mask, pack = BetaLasso(1e-6, 2e-6, 5).plan(None, network(), recipe)
    assert isinstance(fit, Fit) and fit.hooks == (BetaLassoSteps(1e-6, 2e-6, 5),)
    assert (fit.recipe.momentum, fit.recipe.weight_decay, fit.recipe.nesterov) == (0, 0, False)
    assert (mask.name, pack.name) == ("mask", "pack") and not mask.arguments
    assert "momentum and weight decay are left out" in caplog.text
    again = BetaLasso(1e-6, 2e-6, 5).plan(None, network(), fit.recipe)
    assert again == [fit, mask, pack] and caplog.text.count("left out") == 1


@pytest.mark.parametrize("connection", ["conv", "local", "fc"])
def test_zeros_become_masks_and_nothing_is_computed_otherwise(connection, tmp_path: Path) -> None:
    own, x = network(connection), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for layer in (own.module.conv1, own.module.fc1):
            layer.weight.masked_fill_(torch.rand(layer.weight.shape) < 0.7, 0.0)
    before = own.module.eval()(x)
    left = {name: int(getattr(own.module, name).weight.count_nonzero()) for name in ("conv1", "fc1", "fc2")}
    notes = mask_zeros(own, CONTEXT)
    torch.testing.assert_close(own.module(x), before)
    assert notes["nonzeros"] == left and notes["samples"] == 100
    assert own.blueprint == {"conv1": {"kind": "masked"}, "fc1": {"kind": "masked"}}
    assert {n: m.active_weights() for n, m in own.module.named_modules() if isinstance(m, Masked)} == {
        name: left[name] for name in ("conv1", "fc1")
    }
    blueprint.save(own, tmp_path)
    assert torch.equal(blueprint.load(tmp_path)(x), own.module(x))


def test_an_empty_layer_is_told_and_an_empty_network_refused(caplog: pytest.LogCaptureFixture) -> None:
    own = network()
    with torch.no_grad():
        own.module.fc1.weight.zero_()
    mask_zeros(own, CONTEXT)
    assert "no weight is left in fc1" in caplog.text
    with torch.no_grad():
        for layer in (own.module.conv1, own.module.fc1, own.module.fc2):
            layer.weight.zero_()
    with pytest.raises(UserError, match="left no weight at all: take a smaller lambda"):
        mask_zeros(own, CONTEXT)


def test_a_layer_ships_sparse_where_that_is_faster() -> None:
    own = Network(nn.Sequential(nn.Linear(1000, 1500), nn.Linear(1500, 4)), {}, (1000, 1, 1))
    for name, density in (("0", 0.002), ("1", 0.5)):
        blueprint.rewrite(own, name, "masked")
        layer = own.module.get_submodule(name)
        layer.set_mask(torch.rand(layer.weight.shape) < density)
    x = torch.randn(8, 1000)
    before = own.module(x)
    times = pack(own, CONTEXT, batch=16)
    assert set(times) == {"0", "1"} and all(set(pair) == {"dense", "sparse"} for pair in times.values())
    assert times["0"]["dense"] > 1.1 * times["0"]["sparse"] and own.blueprint["0"] == {"kind": "sparse"}
    for name, pair in times.items():
        expected = "sparse" if pair["dense"] > 1.1 * pair["sparse"] else "masked"
        assert own.blueprint[name]["kind"] == expected
    assert torch.equal(own.module(x), before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, walk.Result]:
    output = tmp_path_factory.mktemp("beta_lasso")
    return output, walk.run(["method=beta_lasso", *SMALL, *QUIET, *STRONG, f"output={output}"])


def test_the_whole_way(finished) -> None:
    output, result = finished
    experiment = prepared(output, *STRONG)
    outcomes = experiment.outcomes()
    kept = blueprint.load(result.state)
    rows = outcomes[0].history
    for name in ("conv1", "fc1", "fc2"):
        layer = getattr(kept, name)
        counts = [row[f"nonzero/{name}"] for row in rows]
        assert int(layer.weight.count_nonzero()) == counts[-1] == outcomes[1].notes["nonzeros"][name]
        threshold = 50 * (1e-4 if name == "conv1" else 2e-4)
        assert layer.weight[layer.weight != 0].abs().min() >= threshold
    weights = sum(outcomes[1].notes["nonzeros"].values())
    assert weights == result.metrics["cost/weights"] == result.metrics["cost/macs"] < result.metrics["cost/dense_macs"]
    assert 0 < result.metrics["cost/sparsity"] < 1 and "cost/speed_up_conv" not in result.metrics
    assert result.metrics["locality/filters"] <= 32 and "locality/radius_z" in result.metrics
    assert result.metrics["description/vacuous"] == (result.metrics["description/gap"] > 1)


def test_stopped_within_the_fit_it_goes_on_to_the_same_weights(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["method=beta_lasso", *SMALL, *QUIET, *STRONG, "trainer.checkpoint_seconds=0", f"output={tmp_path}"]
    after_epoch = BetaLassoSteps.after_epoch

    def stop(hook: BetaLassoSteps, fit: FitState) -> dict[str, float]:
        if fit.epoch == 2:
            raise KeyboardInterrupt
        return after_epoch(hook, fit)

    monkeypatch.setattr(BetaLassoSteps, "after_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        walk.run(words)
    monkeypatch.setattr(BetaLassoSteps, "after_epoch", after_epoch)
    ours, whole = (blueprint.load(result.state).state_dict() for result in (walk.run(words), finished[1]))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_its_figures(finished) -> None:
    experiment = prepared(finished[0], *STRONG)
    figures = experiment.method.figures(experiment.outcomes())
    assert list(figures) == ["nonzeros", "first_layer_filters"]
    assert [trace.name for trace in figures["nonzeros"].data] == ["conv1", "fc1", "fc2"]
    assert len(figures["nonzeros"].data[0].x) == 4


def test_lambda_0_is_sgd_without_momentum(tmp_path: Path) -> None:
    none = ["method.decay_conv=0", "method.decay_fc=0", "recipe.epochs=1"]
    ours = walk.run(["method=beta_lasso", *SMALL, *QUIET, *none, f"output={tmp_path}"])
    assert ours.metrics["cost/sparsity"] == 0
    assert not blueprint.read(ours.state).blueprint


def test_each_knob_changes_the_training_and_nothing_else_does(tmp_path: Path) -> None:
    key = prepared(tmp_path).steps[-1].key
    for knob in ("method.decay_conv=2e-5", "method.decay_fc=2e-5", "method.beta=1"):
        assert prepared(tmp_path, knob).steps[0].key != prepared(tmp_path).steps[0].key
    assert prepared(tmp_path, "recipe.momentum=0.5", "recipe.weight_decay=1e-4").steps[-1].key == key


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sparsity=0.9"], r"cannot aim at sparsity=0.9.*method\.decay_conv, method\.decay_fc.*method\.beta"),
        (["speed_up=3"], "cannot aim at speed_up=3"),
        (["method.decay_conv=-1e-5"], r"method\.decay_conv=-1e-05 \(at least 0\)"),
        (["method.decay_fc=-1"], r"method\.decay_fc=-1 \(at least 0\)"),
        (["method.beta=-50"], r"method\.beta=-50 \(at least 0\)"),
        (["method.decay=1e-5"], "unknown key 'decay' in method: did you mean decay_fc or decay_conv"),
        (["model=d_conv"], r"model d_conv halves the image 4 times: 8x8 pixels .*multiples of 16"),
        (["model=d_fc"], "model d_fc halves the image 4 times"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words, says, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as error:
        prepared(tmp_path, *words).steps  # noqa: B018
    assert "\n" not in str(error.value)


def test_the_data_set_decides_the_image_size_where_the_model_takes_one(tmp_path: Path) -> None:
    assert prepared(tmp_path).architecture["image_size"] == [8, 8]
    plain = prepare(compose(["model=resnet20", "dataset=digits", f"output={tmp_path}"]))
    assert "image_size" not in plain.architecture


def test_the_papers_protocol(tmp_path: Path) -> None:
    recipe = prepare(compose(["method=beta_lasso", "recipe=beta_lasso", "dataset=digits", f"output={tmp_path}"])).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.schedule) == (400, 512, 0.1, "cosine")
    assert (recipe.momentum, recipe.weight_decay) == (0, 0)


def test_batch_norm_stays_in_fp32_under_mixed_precision(tmp_path: Path) -> None:
    more = ["recipe.precision=bf16", "recipe.epochs=1"]
    result = walk.run(["method=beta_lasso", *SMALL, *QUIET, *more, f"output={tmp_path}"])
    kept = blueprint.load(result.state)
    norms = [module for module in kept.modules() if isinstance(module, nn.BatchNorm1d)]
    assert {t.dtype for norm in norms for t in (norm.weight, norm.running_mean, norm.running_var)} == {torch.float32}


@pytest.mark.slow
def test_two_ranks_keep_the_same_weights(tmp_path: Path) -> None:
    words = ["method=beta_lasso", *SMALL, *QUIET, *STRONG, "recipe.epochs=2", f"output={tmp_path}"]
    two = walk.run([*words, "trainer=ddp", "trainer.progress=false"])
    assert 0 < two.metrics["cost/sparsity"] < 1
