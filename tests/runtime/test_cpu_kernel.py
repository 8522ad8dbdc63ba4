"""The CPU kernel and the interleaved backend against the masked layer, in float64."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from paredown.layers.ssc.layer import build
from paredown.runtime import cpu_kernel
from paredown.runtime.blocked_layers import SparseConv2d, TiledMaxPool, from_blocks, pooling, tiled, to_blocks
from paredown.runtime.interleaved import Interleaved, residues, splits

needs_compiler = pytest.mark.skipif(not cpu_kernel.available(), reason="no C++ compiler here")


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
@pytest.mark.parametrize("threads", [1, 2])
def test_bf16_is_summed_in_fp32_and_rounded_once(threads: int) -> None:
    layer = build(conv(48, 33, 3, 1), 4, 4).deployed().bfloat16()
    x, other = images(19, 48, 9, 7).bfloat16(), images(19, 33, 9, 7).bfloat16()
    exact = conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1) + other.double()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = from_blocks(SparseConv2d(layer)(to_blocks(x), to_blocks(other)), 19)
    finally:
        torch.set_num_threads(before)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), exact, rtol=2**-8, atol=1e-5)  # half a step of 8 bits is 2**-9
    assert (made == exact.bfloat16()).double().mean() > 0.999  # fp32 sums round otherwise at ties alone


@needs_compiler
def test_bf16_rounds_as_torch_does_at_ties_infinities_and_nan() -> None:
    layer = torch.nn.Conv2d(1, 1, 1).bfloat16()
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.zero_()
    x = torch.arange(1, 2**16 + 1).to(torch.int16).view(torch.bfloat16).view(16, 1, 64, 64)  # every value there is
    for other in (torch.zeros_like(x), torch.full_like(x, 2**-8), x.flip(0)):
        made = from_blocks(SparseConv2d(layer)(to_blocks(x), to_blocks(other)), 16)
        torch.testing.assert_close(made, (x.float() + other.float()).bfloat16(), rtol=0, atol=0, equal_nan=True)


@needs_compiler
def test_blocks_that_do_not_fit_are_refused() -> None:
    layer = SparseConv2d(conv(6, 8, 3))
    full = cpu_kernel.block_size()
    x = images(1, 6, 7, 7, full)
    wrong = [images(1, 5, 7, 7, full), images(1, 7, 7, 7, full), images(1, 6, 7, 7, full - 1), images(6, 7, 7, full)]
    wrong.append(x[None])
    wrong += [x.to(kind) for kind in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.complex128)]
    for blocks in (*wrong, x.to("meta"), x.to_sparse()):
        with pytest.raises(ValueError, match="do not fit"):
            layer(blocks)
    with pytest.raises(ValueError, match="do not fit"):
        layer.half()(x.half())
    with pytest.raises(ValueError, match="residual"):
        SparseConv2d(conv(6, 8, 3))(x, images(1, 8, 7, 6, full))


@needs_compiler
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    "shape", [(0, 8, 8), (1, 2, 2), (1, 1, 8), (3, 0, 8), (0, 0, 0), (0, 2, 2), (17, 3, 3)], ids=str
)
def test_nothing_to_do_is_what_torch_says(k: int, padding: int, shape: tuple[int, ...]) -> None:
    layer = conv(3, 5, k, padding=padding)
    batch, height, width = shape
    x = images(batch, 3, height, width)
    try:
        expected = layer(x)
    except RuntimeError:
        with pytest.raises(ValueError, match="do not fit"):
            on_blocks(layer, x)
    else:
        torch.testing.assert_close(on_blocks(layer, x), expected, rtol=0, atol=1e-12)


@needs_compiler
def test_views_are_read_as_torch_reads_them() -> None:
    layer, x = conv(6, 8, 3), to_blocks(images(3, 6, 7, 7))
    expected = SparseConv2d(layer)(x)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    negated = torch.complex(x, -x).conj().imag  # x, as values with the other sign and a flag
    assert not strided.is_contiguous() and negated.is_neg()
    for view in (strided, negated, x.expand(3, *x.shape[1:])[1:2]):
        assert torch.equal(SparseConv2d(layer)(view), expected)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"dilation": 0}, {"stride": (1, 0)}, {"padding": -1}], ids=str)
def test_a_geometry_that_divides_by_nothing_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="below 1"):
        SparseConv2d(nn.Conv2d(3, 5, 3, **settings))  # type: ignore[arg-type]


@needs_compiler
def test_pooling_on_blocks() -> None:
    x = images(18, 5, 8, 6)
    every = (nn.MaxPool2d(2), nn.MaxPool2d(4, ceil_mode=True), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1))
    for pool in (*every, nn.MaxPool2d(1), nn.AdaptiveAvgPool2d(1)):
        torch.testing.assert_close(from_blocks(pooling(pool)(to_blocks(x)), 18), pool(x))
        torch.testing.assert_close(tiled(pool, pool)(x), pool(x), rtol=0, atol=0)
    assert isinstance(pooling(nn.MaxPool2d(2)), TiledMaxPool)


def test_poolings_that_return_something_else_stay() -> None:
    class Doubled(nn.MaxPool2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    for pool in (nn.MaxPool2d(2, return_indices=True), Doubled(2), nn.ReLU()):
        assert tiled(pool, pool) is pool


def test_pooling_keeps_what_is_no_number() -> None:
    x = images(2, 3, 8, 8)
    x[0, 1, 2, 3], x[1, 2, 7, 7] = math.nan, math.inf
    pool = nn.MaxPool2d(2)
    assert isinstance(tiled(pool, pool), TiledMaxPool)
    torch.testing.assert_close(tiled(pool, pool)(x), pool(x), rtol=0, atol=0, equal_nan=True)


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


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache folder of this test's own, still empty, and a compiler that writes a word."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 1 && exit\nfor last; do :; done\necho made > "$last"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def test_a_library_is_this_user_s_alone_whatever_the_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        library = cpu_kernel._compiled()
    finally:
        os.umask(before)
    assert library.parent == cache / "paredown" and library.read_text() == "made\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (library, library.parent, cache)] == [0o700] * 3
    assert cpu_kernel._compiled() == library and len(list(library.parent.glob("*.so"))) == 1


@pytest.mark.parametrize("spoilt", ["file", "folder", "root", "file link", "folder link", "owner", "pipe"])
def test_a_library_that_others_can_write_is_not_loaded(
    spoilt: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = cpu_kernel._compiled()
    library.write_text("evil")
    if spoilt in ("file", "folder", "root"):
        {"file": library, "folder": library.parent, "root": cache}[spoilt].chmod(0o777)
    elif spoilt == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: library.stat().st_uid + 1)
    elif spoilt == "pipe":
        library.unlink()
        os.mkfifo(library)
    else:
        moved = library if spoilt == "file link" else library.parent
        moved.rename(cache.parent / "elsewhere")
        moved.symlink_to(cache.parent / "elsewhere")
    with caplog.at_level(logging.WARNING, logger="paredown"):
        own = cpu_kernel._compiled()
    assert cache not in own.parents and own.read_text() == "made\n"
    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700 and own.parent.stat().st_uid == os.getuid()
    assert [record.getMessage().endswith("compiled for this process alone") for record in caplog.records] == [True]


def test_without_a_home_a_process_has_a_library_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "file" / "cache"))
    assert cpu_kernel._compiled().read_text() == "made\n"


LIMITED = """
import resource, sys, torch
from torch import nn
from paredown.runtime.blocked_layers import SparseConv2d, to_blocks
torch.set_num_threads(1)
x = to_blocks(torch.zeros(1, 1, 1, 1_000_000))
layer = SparseConv2d(nn.Conv2d(1, 1, 1).requires_grad_(False))
layer(to_blocks(torch.zeros(1, 1, 1, 8)))  # what is loaded once
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + x.numel() * 4 + 8 * 2**20  # room for the result and not for a position of each of its pixels
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    layer(x)
except RuntimeError as error:
    print(error)
"""


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of this process is not readable here")
def test_too_little_memory_in_a_thread_is_an_error_and_not_the_end_of_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "convolve_float: too little memory for its buffers\n"), ended.stderr


SANITIZE = '#!/bin/sh\n[ "$1" = --version ] && exec {compiler} --version\nexec {compiler} "$@" {flags}\n'
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"


def _sanitized(folder: Path) -> dict[str, str]:
    """Return an environment in which the kernel is compiled with sanitizers, or skip where the compiler has none."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None:
        pytest.skip("no g++ here")
    found = [Path(_said(compiler, f"-print-file-name={name}")) for name in ("libasan.so", "libubsan.so")]
    if not all(path.is_absolute() and path.exists() for path in found):
        pytest.skip(f"{compiler} has no sanitizers here")
    wrapper = folder / "c++"
    wrapper.write_text(SANITIZE.format(compiler=compiler, flags=SANITIZERS))
    wrapper.chmod(0o755)
    (folder / "cache").mkdir()
    preload = " ".join(str(path.resolve()) for path in found)
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "LD_PRELOAD": preload}
    return os.environ | options | {"CXX": str(wrapper), "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


PIXELS = str(Path(__file__).with_name("test_pixel_layers.py"))
OUT_OF_BOUNDS = """
import torch
from paredown.runtime.blocked_layers import SparseConv2d, to_blocks
layer = SparseConv2d(torch.nn.Conv2d(3, 5, 3))
layer.entries[-1, 0] = 1000  # a channel that is not there
layer(to_blocks(torch.zeros(1, 3, 8, 8)))
"""


@pytest.mark.slow
def test_sanitizers_find_nothing_in_the_kernel(tmp_path: Path) -> None:
    environment = _sanitized(tmp_path)
    options = ["-o", "addopts=--strict-markers -m 'not slow'", "-p", "no:cacheprovider", "--timeout=1500"]
    test = [sys.executable, "-m", "pytest", *options, __file__, PIXELS, "-k"]
    chosen = (
        "bf16 or native or unstructured or sum_and or do_not_fit or nothing_to_do or views or pixels_ or share_filters"
    )
    ended = subprocess.run([*test, chosen], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert " skipped" not in ended.stdout and re.search(r"[1-9]\d+ passed", ended.stdout)
    (library,) = (tmp_path / "cache" / "paredown").glob("*.so")
    assert b"__asan_" in library.read_bytes() and b"__ubsan_" in library.read_bytes()
    broken = subprocess.run(
        [sys.executable, "-c", OUT_OF_BOUNDS], env=environment, capture_output=True, text=True, check=False
    )
    assert broken.returncode != 0 and "AddressSanitizer" in broken.stderr  # it would find what there is


def test_no_compiler_is_said_once_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernel.available.cache_clear()
    cpu_kernel._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="paredown"):
            assert not cpu_kernel.available() and not cpu_kernel.available()
    finally:
        cpu_kernel.available.cache_clear()
        cpu_kernel._library.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "no native kernel, library operators run instead: no C++ compiler (no-such-compiler) is installed"
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
    cpu_kernel.available.cache_clear()
    cpu_kernel._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="paredown"):
            assert not cpu_kernel.available()
    finally:
        cpu_kernel.available.cache_clear()
        cpu_kernel._library.cache_clear()
    assert "no vectors here" in caplog.text
    assert not list((tmp_path / "paredown").glob("*.so"))
