"""bf16 without instructions for it: what such instructions compute, from products in fp32."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import conv2d, linear
from torch.utils.checkpoint import checkpoint

from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training import bf16, timed_step
from paredown.training.bf16 import bf16_products
from paredown.training.fit import fit
from paredown.training.machine import Machine

CPU = torch.device("cpu")
HALF = 2.0**-8  # of a bf16: half the distance to the next one, of the number


@pytest.fixture(autouse=True)
def no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "has_bf16_units", lambda device: False)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes in which products were computed."""
    seen: list[torch.dtype] = []
    original = bf16._rounded

    def rounded(product: Any, *arguments: Any, **named: Any) -> torch.Tensor:
        def spied(*given: Any, **more: Any) -> torch.Tensor:
            result = product(*given, **more)
            seen.append(result.dtype)
            return result

        return original(spied, *arguments, **named)

    monkeypatch.setattr(bf16, "_rounded", rounded)
    return seen


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape).float() * 17  # products of up to 51 x 51, whose sums bf16 must round


IMAGES = (2, 8, 6, 6)


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (lambda x, w: conv2d(x, w, stride=2, padding=1), [IMAGES, (16, 8, 3, 3)]),
        (lambda x, w: conv2d(x, w, padding="same"), [IMAGES, (16, 8, 3, 3)]),
        (lambda x, w, b: conv2d(x, weight=w, bias=b, groups=2), [IMAGES, (16, 4, 3, 3), (16,)]),
        (linear, [(5, 12), (7, 12), (7,)]),
        (torch.bmm, [(3, 4, 5), (3, 5, 6)]),
        (torch.mm, [(4, 5), (5, 6)]),
        (lambda x, y: x @ y, [(3, 4, 5), (3, 5, 6)]),
        (lambda x, y: torch.einsum("bij,bjk->bik", x, y), [(3, 4, 5), (3, 5, 6)]),
    ],
)
def test_factors_results_and_gradients_are_rounded_once(product, shapes, computed) -> None:
    """Against fp64: sums of these integers are exact in fp32, too, so that each result has one right rounding."""
    torch.manual_seed(0)
    factors = [integers(*shape) for shape in shapes]
    with torch.autocast("cpu", torch.bfloat16), bf16_products(CPU):
        leaves = [one.clone().requires_grad_() for one in factors]
        result = product(*leaves)
    assert computed == [torch.float32]
    gradient = torch.randint(-2, 3, result.shape).bfloat16()
    result.backward(gradient)
    references = [one.clone().requires_grad_() for one in factors]
    exact = product(*(one.bfloat16().double() for one in references))
    exact.backward(gradient.double())
    assert result.dtype == torch.bfloat16 and torch.equal(result, exact.bfloat16())
    assert not torch.equal(exact, result.double())
    for own, reference in zip(leaves, references, strict=True):
        assert own.grad.dtype == torch.float32 and torch.equal(own.grad, reference.grad.bfloat16().float())


def test_a_factor_that_is_no_bf16_is_rounded() -> None:
    x, w = torch.tensor([[1 + HALF / 2, 3.0]], requires_grad=True), torch.tensor([[1.0, 1.0 + HALF]]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), bf16_products(CPU):
        y = linear(x, w)
    assert y.item() == 4.0  # 1 + 3: 1 + 2^-8 lies between two and goes to the even one
    y.backward(torch.ones_like(y))
    assert x.grad.tolist() == [[1.0, 1.0]] and w.grad.tolist() == [[1.0, 3.0]]


def step(module: nn.Module, x: torch.Tensor, y: torch.Tensor, device: torch.device | None) -> list[torch.Tensor]:
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), bf16_products(device) if device else nullcontext():
        functional.cross_entropy(module(x), y).backward()
    return [one.grad.clone() for one in module.parameters()]


def test_gradients_of_a_network_are_as_near_to_torchs_as_rounding_allows() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    )
    x, y = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    native, ours = step(module, x, y, None), step(module, x, y, CPU)
    module.zero_grad()
    functional.cross_entropy(module(x), y).backward()
    for rounded, torchs, exact in zip(ours, native, (one.grad for one in module.parameters()), strict=True):
        scale = exact.abs().max()
        assert (rounded - torchs).abs().max() <= 0.02 * scale or scale < 1e-4  # a bias before a batch norm: rounding


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_the_backward_pass_computes_again_is_rounded_too(reentrant, computed) -> None:
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), bf16_products(CPU):
        y = checkpoint(lambda images: second(first(images).relu()), x, use_reentrant=reentrant)
        assert computed == [torch.float32] * 2
        y.float().square().sum().backward()
    assert computed == [torch.float32] * (4 if reentrant else 3)  # the other stops where it has what was kept


def test_what_autocast_leaves_alone_stays() -> None:
    x, y = torch.randn(1, 4, 6), torch.randn(1, 6, 4)
    with bf16_products(CPU):
        assert torch.bmm(x, y).dtype == torch.float32  # no autocast
        with torch.autocast("cpu", torch.bfloat16):
            sevens = torch.full((1, 2, 2), 77)
            assert torch.bmm(sevens, sevens).tolist() == [[[11858, 11858], [11858, 11858]]]  # more than bf16 tells
            for dtype in (torch.float64, torch.complex64):
                assert torch.bmm(x.to(dtype), y.to(dtype)).dtype == dtype
            with pytest.raises(RuntimeError, match="Double"):
                torch.bmm(x, y.double())
            out = torch.zeros(1, 4, 4)
            assert torch.bmm(x, y, out=out) is out and out.count_nonzero() == 16
            assert torch.bmm(x.to("meta"), y.to("meta")).is_meta
            with torch.autocast("cpu", enabled=False):
                assert torch.bmm(x, y).dtype == torch.float32
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(torch.bmm(x, y), torch.bmm(x.half(), y.half()))


def test_afterwards_torch_is_as_before() -> None:
    x, y = torch.randn(1, 40, 60), torch.randn(1, 60, 40)
    found = []
    for entered in (False, True, False):
        with torch.autocast("cpu", torch.bfloat16), bf16_products(CPU) if entered else nullcontext():
            found.append(torch.bmm(x.requires_grad_(), y).grad_fn.name())
    assert found[0] == found[2] != found[1]
    with pytest.raises(ValueError, match="stop"), bf16_products(CPU):
        raise ValueError("stop")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.bmm(x, y).grad_fn.name() == found[0]


@pytest.mark.parametrize(("units", "device"), [(True, CPU), (False, torch.device("cuda"))])
def test_where_there_are_instructions_nothing_changes(units, device, monkeypatch) -> None:
    monkeypatch.setattr(bf16, "has_bf16_units", lambda device: units)
    monkeypatch.setattr(bf16, "_register", None)
    with bf16_products(device):
        pass


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    original = bf16._register
    monkeypatch.setattr(bf16, "_register", lambda library: seen.append(library) or original(library))
    return seen


@pytest.mark.parametrize(
    ("changes", "rounds"), [({"precision": "bf16"}, True), ({}, False), ({"precision": "bf16", "compile": True}, False)]
)
def test_a_fit_in_bf16_computes_so(changes, rounds, registered, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    data = Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.1, cache=str(tmp_path / "cache"))
    data.prepare()
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    stage = Fit("train", Recipe(epochs=1, batch_size=64, learning_rate=0.05, **changes))
    context = Context(data, CPU, 7)
    fit(Network(module, {}, (1, 8, 8)), stage, context, Machine(accelerator="cpu"), tmp_path, lambda epoch, row: None)
    assert bool(registered) is rounds


def test_timed_steps_compute_so(registered) -> None:
    timed_step.in_turns({"32": lambda: None, "bf16": lambda: registered.append("step")}, CPU)
    assert registered[0] != "step" and registered.count("step") == len(registered) - 1
