"""The form that is fastest under onnxruntime: modules run there as torch runs them, and its times decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paredown.core.network import Network
from paredown.export import work
from paredown.export.onnx_engine import OnnxRuntime, written
from paredown.export.request import parse
from paredown.layers.factorised.branches import Sum
from paredown.runtime import search
from paredown.runtime.interleaved import Interleaved, divisors
from paredown.runtime.optimise import OptimisedNetwork, optimise
from paredown.runtime.units import Traced
from small_networks import ssc_resnet8


def split() -> nn.Module:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    with torch.no_grad():
        live = torch.arange(12)[:, None] // 3 == torch.arange(8) // 2  # the groups, in residue-major order
        conv.weight *= live[..., None, None]
        conv.weight[:, :, 1, 1] = torch.randn(12, 8)
    return Interleaved(conv, 4)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "strided": (lambda: nn.Conv2d(8, 6, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1)), (8, 9, 7)),
    "grouped, no bias": (lambda: nn.Conv2d(8, 12, 3, groups=4, bias=False), (8, 9, 7)),
    "factors": (lambda: nn.Sequential(nn.Conv2d(8, 3, (3, 1), bias=False), nn.Conv2d(3, 5, (1, 3))), (8, 9, 7)),
    "sum": (lambda: Sum([nn.Conv2d(8, 3, 1), nn.Conv2d(8, 3, 3, padding=1)]), (8, 9, 7)),
    "linear": (lambda: nn.Linear(8, 3), (8,)),
    "interleaved": (split, (8, 9, 7)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_layer_is_written_as_torch_computes_it(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module, x = make().eval(), torch.randn(3, *shape)
    assert written(module, shape) is not None
    with torch.no_grad():
        torch.testing.assert_close(OnnxRuntime().ready(module, x)(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # imports torch's exporter
def test_another_module_goes_through_the_exporter() -> None:
    module, x = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular").eval(), torch.randn(3, 2, 5, 5)
    assert written(module, (2, 5, 5)) is None
    with torch.no_grad():
        torch.testing.assert_close(OnnxRuntime().ready(module, x)(x), module(x), rtol=1e-4, atol=1e-5)


class Pretended:
    """An engine that is quick for convolutions in `groups` alone; None: for plain ones."""

    def __init__(self, groups: int | None) -> None:
        self.groups = groups

    def ready(self, module: nn.Module, images: Tensor) -> Callable[[Tensor], object]:
        found = {layer.spread.groups for layer in module.modules() if isinstance(layer, Interleaved)}
        price = 1.0 if found == ({self.groups} if self.groups else set()) else 2.0
        return lambda _: price


@pytest.fixture
def network() -> Network:
    return ssc_resnet8()


@pytest.mark.parametrize("groups", [None, 2, 8])
def test_its_times_decide(groups: int | None, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LAYER_SECONDS", 0.0)
    monkeypatch.setattr(search, "timed", lambda run, device: run())  # a price instead of a time
    assert {2, 4, 8} <= set(divisors(Traced(network).units.values()))
    chosen = optimise(network, 1, seconds=0, portable=True, engine=Pretended(groups)).choices
    assert chosen["groups"] == groups and chosen["memory_format"] == "contiguous"
    split = [name for name, backend in chosen["layers"].items() if backend == "interleaved"]
    assert set(split) >= {"layer2.0.conv2", "layer3.0.conv2"} if groups else not split


def test_each_format_is_chosen_for_what_runs_it(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def chosen(network: Network, batch: int, *, portable: bool, engine: Any) -> OptimisedNetwork:
        asked.append((batch, portable, type(engine)))
        return OptimisedNetwork(network.module, {})

    monkeypatch.setattr(work, "optimise", chosen)
    work._sources(parse(["run=abcd", "batch=4"]), network, {})
    assert asked == [(4, False, type(None)), (4, True, type(None)), (4, True, OnnxRuntime)]
