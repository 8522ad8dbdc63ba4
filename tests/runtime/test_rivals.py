"""A comparison of speed gives both sides the same search: the mechanism, not the times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from paredown.bench import measure as bench
from paredown.bench.request import parse
from paredown.bench.subject import Subject
from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.network import Network
from paredown.cost import latency
from paredown.experiment.prepare import prepare
from paredown.results.measure import compared
from paredown.runtime import optimise, rivals, search
from paredown.runtime.rivals import Candidate, candidates, fastest

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)
RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}


@pytest.fixture
def dense() -> Network:
    torch.manual_seed(0)
    network = blueprint.create(RESNET, SHAPE)
    network.module.eval()
    return network


@pytest.fixture
def clock(monkeypatch) -> None:
    """Channels-last and folded batch norm are faster, by the same amount whenever it is timed."""

    def seconds(run: Callable[[], object], device: torch.device) -> float:
        module = run.func if isinstance(run, partial) else run
        assert isinstance(module, nn.Module)
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
        weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        rows = sum(not weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        return 1e-3 * (1 + norms + rows)

    for module in (search, latency):
        monkeypatch.setattr(module, "timed", seconds)
    monkeypatch.setattr(search, "LAYER_SECONDS", 0)
    monkeypatch.setattr(search.cpu_kernel, "available", lambda: False)


def described(module: nn.Module) -> list[str]:
    return [f"{name}: {type(layer).__name__}" for name, layer in module.named_modules()]


@pytest.mark.parametrize("deploy", ["auto", "plain"])
def test_dense_against_itself_is_one(deploy, dense, clock, tmp_path, monkeypatch) -> None:
    """What an experiment times: the same forms, in the same layout, on the same images."""
    timed: list[tuple[latency.Timed, ...]] = []
    turns = latency.in_turns
    monkeypatch.setattr(latency, "in_turns", lambda pairs, seconds: (timed.append(tuple(pairs)), turns(pairs, 0))[1])
    words = ["dataset=digits", "model=resnet20", "model.depth=8", f"deploy={deploy}", "latency.seconds=0"]
    experiment = prepare(compose([*words, "latency.batch=4", f"output={tmp_path}", "tracking=off"]))
    found = compared(experiment, experiment.dense())
    ((own, its_images), (other, images)) = timed[0]
    assert described(own) == described(other)
    assert [weight.stride() for weight in own.parameters()] == [weight.stride() for weight in other.parameters()]
    assert torch.equal(its_images, images) and its_images.stride() == images.stride()
    folded = not any(isinstance(layer, nn.BatchNorm2d) for layer in own.modules())
    assert folded == (deploy == "auto")  # the search found something, for both
    assert (found.latency.speed_up_low, found.latency.speed_up, found.latency.speed_up_high) == (1, 1, 1)
    assert found.choices["memory_format"] == "channels_last"


@pytest.mark.parametrize("deploy", ["auto", "plain"])
def test_a_bench_searches_for_both_alike(deploy, dense, clock, monkeypatch) -> None:
    asked = []
    real = optimise.optimise
    monkeypatch.setattr(rivals, "optimise", lambda network, *how: (asked.append(how), real(network, *how))[1])
    request = parse(["model=resnet20", "batch=2", f"deploy={deploy}", "seconds=0", "rounds=1", "tune=0", "device=cpu"])
    found = bench.bench(request, Subject("itself", dense, dense))
    assert (
        len(asked) % 2 == 0
        and asked[: len(asked) // 2] == asked[len(asked) // 2 :]
        and bool(asked) == (deploy == "auto")
    )
    (batch,) = found.batches
    for precision in {time.precision for time in batch.times}:
        first, second = (time for time in batch.times if time.precision == precision)
        assert first.variant == second.variant and {first.network, second.network} == {"dense", "deployed"}
    assert all(one.value == 1 for one in batch.speed_ups if one.dense == one.deployed)


def test_candidates_compute_the_same_and_leave_the_network_alone(dense) -> None:
    dense.module.double().train()
    before = torch.get_rng_state()
    forms = candidates("dense", dense, 3, CPU, "fp32", None)
    assert [form.variant for form in forms] == ["NCHW", "NHWC"] and torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        one, other = (form.module(form.images) for form in forms)
    assert torch.allclose(one, other, atol=1e-5)
    assert dense.module.training and next(dense.module.parameters()).dtype == torch.float64
    again = optimise.build(dense, forms[1].choices)
    assert described(again) == described(forms[1].module)


def test_the_fastest_variant_of_each_is_compared_side_by_side(monkeypatch) -> None:
    images, seconds = torch.zeros(1, *SHAPE), {}

    def form(network: str, precision: str, variant: str, time: float) -> Candidate:
        made = Candidate(network, precision, variant, nn.Identity(), images, {})
        seconds[id(made.module)] = time
        return made

    forms = [form("dense", "bf16", "NCHW", 3), form("dense", "fp32", "NCHW", 2), form("dense", "fp32", "NHWC", 1)]
    forms += [form("deployed", "fp32", "NCHW", 1), form("deployed", "fp32", "NHWC", 2)]
    forms += [form("deployed", "bf16", "NHWC", 9)]
    monkeypatch.setattr(rivals, "in_turns", lambda pairs, _: [tuple(seconds[id(one)] for one, _ in pairs)])
    found = [(one.network, one.precision, one.variant) for one in fastest(forms, 1)]
    expected = [("dense", "fp32", "NHWC"), ("deployed", "fp32", "NCHW")]
    assert found == [*expected, ("dense", "bf16", "NCHW"), ("deployed", "bf16", "NHWC")]
