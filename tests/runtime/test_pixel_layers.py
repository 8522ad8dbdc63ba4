"""The CPU kernel's form for few images against torch, in float64; and threads that share filters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.layers.ssc.layer import build
from paredown.runtime import backends, cpu_kernel
from paredown.runtime.assembly import assemble
from paredown.runtime.blocked_layers import SparseConv2d, TiledMaxPool, from_blocks, to_blocks
from paredown.runtime.equivalence import prove_equivalent
from paredown.runtime.pixel_layers import FEW, PixelConv2d
from paredown.runtime.search import Setting
from paredown.runtime.units import Traced

pytestmark = pytest.mark.skipif(not cpu_kernel.available(), reason="no C++ compiler here")
CPU = torch.device("cpu")


def conv(m: int, n: int, k: Any, zeros: float = 0.6, **settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    made = nn.Conv2d(m, n, k, **settings).double().requires_grad_(False)
    made.weight *= torch.rand(made.weight.shape) > zeros
    return made


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(layer: nn.Conv2d, x: torch.Tensor) -> None:
    made = PixelConv2d(layer)(x)
    torch.testing.assert_close(made, layer(x), rtol=0, atol=1e-12)
    assert made.is_contiguous()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 7), (9, 4), (1, 30), (32, 32)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3, 8])
def test_pixels_of_any_map(size: tuple[int, int], batch: int) -> None:
    same(conv(5, 9, 3, padding=1), images(batch, 5, *size))


@pytest.mark.parametrize("far", [2**23, 2**29], ids=["more than addresses", "more than a vector holds"])
def test_too_little_memory_for_the_buffers_is_an_error_and_not_the_end_of_the_process(far: int) -> None:
    layer = PixelConv2d(conv(1, 1, 3, zeros=0.0, padding=far, dilation=far))
    with pytest.raises(RuntimeError, match="convolve_pixels_double: too little memory for its buffers"):
        layer(images(1, 1, 3, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": False},
        {"groups": 2},
        {"groups": 4, "dilation": 2, "padding": 2},
        {"padding": (2, 0), "dilation": (1, 3)},
        {"padding": 5},
        {"zeros": 1.0, "padding": 1},
        {"zeros": 0.0, "padding": 1},
    ],
    ids=str,
)
def test_pixels_in_any_geometry(settings: dict[str, Any]) -> None:
    same(conv(8, 12, 3, **settings), images(2, 8, 8, 11))
    same(conv(8, 12, (1, 3), **settings), images(2, 8, 8, 11).to(memory_format=torch.channels_last))


def test_pixels_of_views_and_of_one_output() -> None:
    x = images(2, 12, 10, 10)[:, ::2, ::2, 1::2]
    same(conv(6, 3, 5), x)
    same(conv(6, 3, 1), torch._neg_view(x))


@pytest.mark.parametrize("g", [2, 8])
def test_pixels_of_ssc_on_two_threads(g: int) -> None:
    layer = build(conv(16, 24, 3, zeros=0.0, padding=1), g, 4)
    x, before = images(3, 16, 5, 6), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.testing.assert_close(PixelConv2d(layer.deployed())(x), layer(x), rtol=0, atol=1e-12)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (8, 8), (9, 8)], ids=str)
def test_blocks_on_threads_that_share_filters_or_rows(threads: int, size: tuple[int, int]) -> None:
    """Maps of up to 64 pixels have their filters shared, larger ones their rows."""
    layer, x, before = conv(6, 21, 3, padding=1), images(35, 6, *size), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = from_blocks(SparseConv2d(layer)(to_blocks(x)), len(x))
        torch.testing.assert_close(made, layer(x), rtol=0, atol=1e-12)
    finally:
        torch.set_num_threads(before)


def test_pixels_in_bf16_are_summed_in_fp32() -> None:
    layer, x = conv(40, 13, 3, padding=1).bfloat16(), images(3, 40, 5, 6).bfloat16()
    made, exact = (
        PixelConv2d(layer)(x),
        nn.functional.conv2d(x.double(), *map(torch.Tensor.double, layer.parameters()), padding=1),
    )
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), exact, rtol=2**-8, atol=1e-5)


def test_pixels_that_do_not_fit_are_refused() -> None:
    layer = PixelConv2d(conv(6, 8, 3))
    wrong = [images(1, 5, 7, 7), images(6, 7, 7), images(1, 6, 2, 7), images(1, 6, 7, 7).float()]
    wrong += [images(6), images(1, 6, 7, 7).to_sparse(), images(1, 6, 7, 7).to("meta")]
    for x in wrong:
        with pytest.raises(ValueError, match="do not fit"):
            layer(x)
    with pytest.raises(ValueError, match="stride"):
        PixelConv2d(conv(6, 8, 3, stride=2))


def test_pixels_are_tried_for_few_images_alone() -> None:
    few, more = (Setting(batch, CPU, torch.float32, portable=False).backends for batch in (FEW, FEW + 1))
    assert "pixels" in few and "native" in few and "pixels" not in more
    assert "pixels" not in Setting(1, CPU, torch.float32, portable=True).backends
    assert "pixels" in Setting(1, CPU, torch.bfloat16, portable=False).backends
    assert "pixels" not in Setting(1, CPU, torch.float16, portable=False).backends


def test_a_whole_network_in_pixels() -> None:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 9, 9))
    blueprint.rewrite(network, "layer2.0.conv2", "ssc", g=8, p=4)
    blueprint.rewrite(network, "layer3.0.conv2", "low_rank", factorisation="vertical_first", rank=5)
    network.module.eval()
    units = Traced(network).units
    layers = {name: "pixels" if backends.pixels(unit) else "plain" for name, unit in units.items()}
    assert layers["layer3.0.conv2"] == "pixels" and layers["layer2.0.conv1"] == "plain"  # of stride 2
    choices = Setting(1, CPU, torch.float32, portable=False).choices(layers, "contiguous")
    assert prove_equivalent(network, choices) < 1e-5


def test_poolings_of_a_network_in_pixels_are_slices() -> None:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.vgg.vgg19_bn"}, (3, 32, 32))
    network.module.eval()
    plain = dict.fromkeys(Traced(network).units, "plain")
    setting = Setting(1, CPU, torch.float32, portable=False)

    def poolings(layers: dict[str, str]) -> int:
        choices = setting.choices(layers, "contiguous")
        assert prove_equivalent(network, choices) < 1e-5
        return sum(isinstance(module, TiledMaxPool) for module in assemble(network, choices).modules())

    assert (poolings(plain), poolings(plain | {"features.conv5_4": "pixels"})) == (0, 4)
