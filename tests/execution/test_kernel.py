"""The native kernel and the interleaved form against the masked layer, in float64."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.execution import native
from paredown.execution.blocked import SparseConv2d, TiledMaxPool, from_blocks, pooling, to_blocks
from paredown.execution.interleaved import Interleaved, residues, splits
from paredown.layers.ssc import build

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C++ compiler here")


def conv(m: int, n: int, k: int, stride: int = 1, **settings: object) -> nn.Conv2d:
    torch.manual_seed(0)
    made = nn.Conv2d(m, n, k, stride, **({"padding": k // 2} | settings))  # type: ignore[arg-type]
    return made.double().requires_grad_(False)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def on_blocks(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return from_blocks(SparseConv2d(layer)(to_blocks(x)), len(x))


# M, N, K, stride, g, p, height, width: widths that g and p do not divide, p > g, one kernel a filter, tiny maps
PATTERNS = [
    (16, 16, 3, 1, 4, 4, 9, 9),
    (32, 32, 3, 2, 8, 3, 10, 7),
    (31, 33, 3, 1, 6, 6, 5, 8),
    (10, 7, 5, 2, 3, 2, 6, 6),
    (16, 24, 3, 1, 2, 8, 4, 4),
    (12, 6, 7, 3, 3, 2, 11, 5),
    (32, 32, 3, 1, 32, 31, 2, 2),
    (16, 20, 1, 2, 0, 4, 6, 5),
    (8, 8, 3, 1, 8, 0, 1, 1),
]


@needs_compiler
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("batch", [1, 16, 35])
def test_native_is_the_masked_convolution(pattern: tuple[int, ...], batch: int) -> None:
    m, n, k, stride, g, p, height, width = pattern
    layer = build(conv(m, n, k, stride), g, p)
    x = images(batch, m, height, width)
    torch.testing.assert_close(on_blocks(layer.deployed(), x), layer(x), rtol=0, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 2},
        {"groups": 12, "bias": False},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"padding": (2, 0), "dilation": (3, 1)},
        {"padding": 4},  # more than the kernel reaches: positions that see the border alone
        {"stride": (1, 3)},
    ],
    ids=str,
)
def test_native_takes_any_geometry(settings: dict[str, object]) -> None:
    stride = settings.pop("stride", 1)
    layer = conv(12, 24, 3, stride, **settings)  # type: ignore[arg-type]
    x = images(3, 12, 9, 8)
    torch.testing.assert_close(on_blocks(layer, x), layer(x), rtol=0, atol=1e-12)


@needs_compiler
def test_unstructured_masks_empty_filters_and_several_threads() -> None:
    layer = conv(20, 30, 3)
    layer.weight.mul_(torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(2)) < 0.1)
    layer.weight[7] = 0
    x = images(40, 20, 12, 12)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(on_blocks(layer, x), layer(x), rtol=0, atol=1e-12)
    finally:
        torch.set_num_threads(before)
    layer.weight.zero_()
    torch.testing.assert_close(on_blocks(layer, x), layer(x), rtol=0, atol=1e-12)


@needs_compiler
def test_sum_and_activation_are_part_of_the_layer() -> None:
    layer, x = conv(6, 8, 3), images(5, 6, 7, 7)
    other = images(5, 8, 7, 7)
    fused = SparseConv2d(layer, 0.0, 6.0)
    made = from_blocks(fused(to_blocks(x), to_blocks(other)), 5)
    torch.testing.assert_close(made, (layer(x) + other).clamp(0, 6), rtol=0, atol=1e-12)
    spoilt = from_blocks(SparseConv2d(layer, 0.0, math.inf)(to_blocks(x * math.nan)), 5)
    assert spoilt.isnan().all()  # as torch's ReLU: a failure is not turned into zeros


@needs_compiler
def test_blocks_that_do_not_fit_are_refused() -> None:
    layer = SparseConv2d(conv(6, 8, 3))
    for wrong in (images(1, 5, 7, 7, 16), images(1, 6, 7, 7, 8), images(1, 6, 7, 7, 16).float()):
        with pytest.raises(ValueError, match="do not fit"):
            layer(wrong)


def test_pooling_on_blocks() -> None:
    x = images(18, 5, 8, 6)
    every = (nn.MaxPool2d(2), nn.MaxPool2d(4, ceil_mode=True), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1))
    for pool in (*every, nn.MaxPool2d(1), nn.AdaptiveAvgPool2d(1)):
        torch.testing.assert_close(from_blocks(pooling(pool)(to_blocks(x)), 18), pool(x))
    assert isinstance(pooling(nn.MaxPool2d(2)), TiledMaxPool)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("m", "n", "k", "g", "p"), [(16, 32, 3, 8, 3), (24, 24, 5, 8, 8), (16, 16, 1, 0, 8)])
def test_interleaved_is_the_masked_convolution_in_another_order(
    m: int, n: int, k: int, g: int, p: int, stride: int
) -> None:
    layer = build(conv(m, n, k, stride), g, p)
    x = images(2, m, 9, 9)
    for groups in (2, 4, 8):
        plain = layer.deployed()
        assert splits(plain, groups)
        before, after = residues(m, groups), residues(n, groups)
        assert before is not None and after is not None
        plain.weight = nn.Parameter(plain.weight[after][:, before])
        plain.bias = nn.Parameter(plain.bias[after])  # type: ignore[index]
        made = Interleaved(plain, groups)
        torch.testing.assert_close(made(x[:, before]), layer(x)[:, after], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("m", "n", "g", "p", "groups"), [(16, 16, 8, 3, 16), (16, 18, 8, 3, 4), (15, 15, 4, 4, 5), (16, 16, 4, 6, 4)]
)
def test_what_does_not_split_is_known(m: int, n: int, g: int, p: int, groups: int) -> None:
    assert not splits(build(conv(m, n, 3), g, p).deployed(), groups)


def test_no_compiler_is_said_once_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.available.cache_clear()
    native._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="paredown"):
            assert not native.available() and not native.available()
    finally:
        native.available.cache_clear()
        native._library.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "the native kernel is left out, library operators run instead: no C++ compiler (no-such-compiler) is installed"
    ]


def test_a_compiler_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "c++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit 0\necho "no vectors here" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.available.cache_clear()
    native._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="paredown"):
            assert not native.available()
    finally:
        native.available.cache_clear()
        native._library.cache_clear()
    assert "no vectors here" in caplog.text
    assert not list((tmp_path / "paredown").glob("*.so"))
