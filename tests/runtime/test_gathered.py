"""The Triton kernel and what it reads: packed weights against the masked layer, the kernel itself interpreted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paredown.core.network import Network
from paredown.layers.ssc.layer import build
from paredown.runtime import assembly, backends, gathered, search
from paredown.runtime.equivalence import prove_equivalent, reproduces
from paredown.runtime.gathered import DTYPES, WIDEST, GatheredConv2d
from paredown.runtime.gathered_check import CASES, layer
from paredown.runtime.search import Setting, find_fastest
from small_networks import ssc_resnet8


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_packed_weights_are_the_layers(case: Any) -> None:
    conv = layer(case).double()
    packed = GatheredConv2d(conv)
    x = torch.randn(case.inputs, dtype=torch.float64)
    torch.testing.assert_close(packed(x), conv(x), rtol=0, atol=1e-12)
    assert len(packed.weights) == int(conv.weight.count_nonzero())  # no zero is kept, none is multiplied
    assert int(packed.tiles[:, 1].max()) <= WIDEST
    assert sorted(packed.order.tolist()) == list(range(conv.out_channels))


def test_ssc_has_few_tiles() -> None:
    conv = nn.Conv2d(64, 256, 3, padding=1).requires_grad_(False)
    tiles = GatheredConv2d(build(conv, 8, 4).deployed()).tiles  # type: ignore[arg-type]
    assert len(tiles) <= 16 and tiles[:, 1].sum() == 256  # by residue and parity


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_does_not_fit_is_refused_before_the_kernel_reads_it(dtype: torch.dtype) -> None:
    packed = GatheredConv2d(nn.Conv2d(4, 8, 5).to(dtype))
    with pytest.raises((ValueError, RuntimeError)):
        packed.by_kernel(torch.zeros(1, 4, 3, 3, dtype=dtype))
    with pytest.raises(ValueError, match="padding_mode='circular'"):
        GatheredConv2d(nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"))


def interpreted(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` under Triton's interpreter, which has to be chosen before anything imports Triton."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", f"from paredown.runtime import gathered_check as check\n{code}", "cpu"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_kernel_computes_what_torch_does_in_float64() -> None:
    """Every case in every precision and layout; each must have been compared."""
    ended = interpreted(
        "compared, one = [], check.difference\n"
        "check.difference = lambda *what: compared.append(what) or one(*what)\n"
        "code = check.main(); print(len(compared)); raise SystemExit(code)"
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == len(CASES) * len(DTYPES) * 2


GUARDED = """
import torch
conv = torch.nn.Conv2d(5, 7, 3, 2, padding=1).requires_grad_(False)
conv.weight *= torch.rand(conv.weight.shape) < 0.6
packed, guarded = check.GatheredConv2d(conv), torch.full((4, 7, 9, 7), torch.nan)
x = guarded[1:-1, 1:-1, 1:-1, 1:-1].copy_(torch.randn(2, 5, 7, 5))
weights = torch.full((len(packed.weights) + 200,), torch.nan)
weights[100:-100] = packed.weights
packed.weights.data = weights[100:-100]
torch.testing.assert_close(packed.by_kernel(x), conv(x), rtol=1e-5, atol=1e-5)
"""


@pytest.mark.slow
def test_every_input_is_inside_its_memory() -> None:
    """NaN beside the images and the weights: one that is read would be seen in the outputs."""
    ended = interpreted(GUARDED)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_the_check_sees_a_wrong_kernel() -> None:
    ended = interpreted(
        "right = check.GatheredConv2d.by_kernel\n"
        "check.GatheredConv2d.by_kernel = lambda self, x: right(self, x) * 1.001\nraise SystemExit(check.main())"
    )
    assert ended.returncode == 1 and "in torch.float32 differs by " in ended.stderr


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from paredown.runtime import triton_kernel as kernel
names = kernel._product.arg_names
sizes = {"FIELDS": kernel.TILE_FIELDS, "ROWS": kernel.ROWS, "COLUMNS": 64, "INNER": kernel.INNER, "WIDEN": False}
tables = {name: "*i32" for name in ("tiles", "order", "places")}
for capability, kind, unit in ((80, "fp16", "mma.sync"), (90, "bf16", "wgmma"), (80, "fp32", "fma.rn.f32")):
    values = {name: f"*{kind}" for name in ("x", "weights", "bias", "y")}
    types = {name: "constexpr" if name in sizes else (tables | values).get(name, "i32") for name in names}
    source = ASTSource(kernel._product, types, {(names.index(name),): value for name, value in sizes.items()})
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert unit in made.asm["ptx"] and made.asm["cubin"] and made.metadata.shared < 48 * 1024
"""


@pytest.mark.slow
def test_it_compiles_for_gpus_and_uses_their_matrix_units(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_without_a_gpu_it_is_not_available_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    if not torch.cuda.is_available():
        with caplog.at_level(logging.WARNING):
            assert not gathered.available.__wrapped__() and not caplog.records


@pytest.mark.parametrize("code", ["raise SystemExit('the card is on fire')", "import os; os.abort()"])
def test_a_kernel_that_fails_in_its_process_is_one_line(
    code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = subprocess.run
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gathered, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", lambda command, **settings: run([sys.executable, "-c", code], **settings))
    with caplog.at_level(logging.WARNING):
        assert not gathered.available.__wrapped__()
    assert caplog.text.count("no Triton kernel, library operators run instead") == 1


@pytest.fixture
def network() -> Network:
    return ssc_resnet8()


def choices(network: Network, backend: str) -> dict[str, Any]:
    setting = Setting(2, torch.device("cpu"), torch.float32, portable=False)
    layers = dict.fromkeys(search.Traced(network).units, "plain")
    return setting.choices(layers | {"layer2.0.conv2": backend, "layer3.0.conv2": backend}, "channels_last")


def test_a_network_with_it_is_proved_as_all_others_are(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "available", lambda: True)
    assert prove_equivalent(network, choices(network, "triton")) < 1e-5
    module = assembly.assemble(network, choices(network, "triton"))
    assert sum(isinstance(one, GatheredConv2d) for one in module.modules()) == 2


def test_choices_of_another_machine_run_plain_here(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "available", lambda: False)
    module = assembly.assemble(network, choices(network, "triton"))
    assert not any(isinstance(one, GatheredConv2d) for one in module.modules())


class OnAGpu(Setting):
    """A setting whose device is taken for one with the kernel."""

    backends = ("plain", "triton")


class Counted(GatheredConv2d):
    """The kernel's layer with a price instead of a time, and a result that may be wrong by a factor."""

    price, factor, spent = 1.0, 1.0, 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.spent += self.price
        weight = self.dense_weight()
        return self.factor * nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)


@pytest.mark.parametrize(("factor", "price", "taken"), [(1.0, 1.0, True), (1.01, 1.0, False), (1.0, 9.0, False)])
def test_it_is_taken_where_it_is_right_and_faster_alone(
    factor: float, price: float, taken: bool, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convolve(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        Counted.spent += 3.0
        return self._conv_forward(x, self.weight, self.bias)

    def timed(run: Any, device: torch.device) -> float:
        before = Counted.spent
        run()
        return Counted.spent - before

    monkeypatch.setattr(Counted, "factor", factor)
    monkeypatch.setattr(Counted, "price", price)
    monkeypatch.setattr(backends, "GatheredConv2d", Counted)
    monkeypatch.setattr(nn.Conv2d, "forward", convolve)
    monkeypatch.setattr(gathered, "available", lambda: True)
    monkeypatch.setattr(search, "LAYER_SECONDS", 0.0)
    monkeypatch.setattr(search, "timed", timed)
    found = find_fastest(network, OnAGpu(2, torch.device("cpu"), torch.float32, False), 0.0)["layers"]
    assert (found["layer2.0.conv2"] == "triton") is taken
    assert found["conv"] == "plain"  # which has no zero


def test_a_form_that_raises_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of resources: shared memory")

    with caplog.at_level(logging.WARNING):
        assert not reproduces(Broken(), nn.Identity(), torch.randn(2, 3))
    assert "shared memory" in caplog.text
    assert reproduces(nn.Identity(), nn.Identity(), torch.randn(2, 3))
