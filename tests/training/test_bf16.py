"""bf16 without instructions for it: what torch computes in bf16, rounding for rounding, from products in fp32."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import conv2d, linear

from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training import bf16
from paredown.training.bf16 import RoundedProducts, bf16_products
from paredown.training.fit import fit
from paredown.training.machine import Machine

CPU = torch.device("cpu")
HALF = 2.0**-8  # of a bf16: half the distance to the next one, of the number


def integers(*shape: int, low: int = -3, high: int = 4) -> torch.Tensor:
    return torch.randint(low, high, shape).float()


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (lambda x, w: conv2d(x, w, stride=2, padding=1), [(2, 8, 6, 6), (16, 8, 3, 3)]),
        (lambda x, w, b: conv2d(x, weight=w, bias=b, groups=2), [(2, 8, 6, 6), (16, 4, 3, 3), (16,)]),
        (linear, [(5, 12), (7, 12), (7,)]),
        (torch.bmm, [(3, 4, 5), (3, 5, 6)]),
    ],
)
def test_what_is_exact_in_both_is_equal_to_the_bit(product, shapes) -> None:
    """Sums of small integers are exact in fp32 in any order, so that each result is one rounding, the same one."""
    torch.manual_seed(0)
    found = []
    factors = [integers(*shape) * 17 for shape in shapes]  # products of up to 51 x 51, whose sums bf16 must round
    for mode in (nullcontext, RoundedProducts):
        leaves = [one.clone().requires_grad_() for one in factors]
        with torch.autocast("cpu", torch.bfloat16), mode():
            result = product(*leaves)
        result.backward(torch.ones_like(result))
        found.append([result, *(one.grad for one in leaves)])
    for native, ours in zip(*found, strict=True):
        assert native.dtype == ours.dtype and torch.equal(native, ours)
    exact = product(*factors)
    assert not torch.equal(exact, found[0][0].float())  # bf16 did round


def test_factors_results_and_gradients_are_rounded() -> None:
    x, w = torch.tensor([[1 + HALF / 2, 3.0]], requires_grad=True), torch.tensor([[1.0, 1.0 + HALF]]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        y = linear(x, w)
    assert y.dtype == torch.bfloat16 and y.item() == 4.0  # 1 + 3: 1 + 2^-8 lies between two and goes to the even one
    y.backward(torch.full_like(y, 1.0))
    assert x.grad.dtype == torch.float32 and x.grad.tolist() == [[1.0, 1.0]]
    assert w.grad.tolist() == [[1.0, 3.0]]


def step(module: nn.Module, x: torch.Tensor, y: torch.Tensor, mode: Any) -> list[torch.Tensor]:
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), mode:
        functional.cross_entropy(module(x), y).backward()
    return [one.grad.clone() for one in module.parameters()]


def test_gradients_of_a_network_are_as_near_to_torchs_as_rounding_allows() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    )
    x, y = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    native, ours = (step(module, x, y, mode) for mode in (nullcontext(), RoundedProducts()))
    module.zero_grad()
    functional.cross_entropy(module(x), y).backward()
    for rounded, torchs, exact in zip(ours, native, (one.grad for one in module.parameters()), strict=True):
        scale = exact.abs().max()
        assert (rounded - torchs).abs().max() <= 0.02 * scale or scale < 1e-4  # a bias before a batch norm: rounding
        assert rounded.dtype == torch.float32


def test_nothing_else_changes() -> None:
    """fp32 outside of autocast, autocast to fp16, fp64 under it, and products of others."""
    torch.manual_seed(0)
    x, w = torch.randn(4, 6), torch.randn(5, 6)
    with RoundedProducts():
        assert torch.equal(linear(x, w), x @ w.T) or torch.allclose(linear(x, w), x @ w.T, rtol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x.double(), w.double()).dtype == torch.float64
            assert torch.relu(x).dtype == torch.float32
            with torch.autocast("cpu", enabled=False):
                assert linear(x, w).dtype == torch.float32
        with torch.autocast("cpu", torch.float16):
            assert linear(x, w).dtype == torch.float16


@pytest.mark.parametrize("units", [True, False])
def test_a_processor_with_instructions_computes_in_them(units, monkeypatch) -> None:
    monkeypatch.setattr(bf16, "has_bf16_units", lambda device: units)
    assert isinstance(bf16_products(CPU), RoundedProducts) is not units
    assert not isinstance(bf16_products(torch.device("cuda")), RoundedProducts)


@pytest.mark.parametrize(("precision", "rounds"), [("bf16", True), ("32", False)])
def test_a_fit_in_bf16_computes_so_where_there_are_no_instructions(
    precision, rounds, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(bf16, "has_bf16_units", lambda device: False)
    seen: list[Any] = []
    original = bf16._rounded
    monkeypatch.setattr(bf16, "_rounded", lambda one: seen.append(one) or original(one))
    data = Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.1, cache=str(tmp_path / "cache"))
    data.prepare()
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    stage = Fit("train", Recipe(epochs=1, batch_size=64, learning_rate=0.05, precision=precision))
    context = Context(data, CPU, 7)
    fit(Network(module, {}, (1, 8, 8)), stage, context, Machine(accelerator="cpu"), tmp_path, lambda epoch, row: None)
    assert bool(seen) is rounds
