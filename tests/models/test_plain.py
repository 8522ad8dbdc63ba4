"""Layers of other libraries: those that compute as torch's become plain, the others stay, are named and left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.masked import maskable
from paredown.layers.padded import PaddedConv2d
from paredown.layers.replaceable import LEFT_ALONE, left_alone
from paredown.methods.low_rank.alds.method import decomposable
from paredown.models.plain import _tell, settle
from paredown.surgery.factorise import convolutions
from paredown.surgery.saliency import magnitude
from paredown.surgery.sparsify import sparsify

SHAPE = (3, 16, 16)


class Padded(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (k, _), (s, _) = self.kernel_size, self.stride
        pad = max((-(-x.shape[-1] // s) - 1) * s + k - x.shape[-1], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    """A convolution whose weights are standardised."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class Mixed(nn.Module):
    """A network with every kind of layer that can, or cannot, be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.same = Padded(3, 8, 3)
        self.uneven = Padded(8, 8, 3, stride=2)
        self.point = Padded(8, 8, 1, bias=False)
        self.scaled = Standardised(8, 8, 3)
        self.functional = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1)])
        self.tied, self.tied_too = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.tied_too.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scaled(self.point(self.uneven(self.same(x).relu()))).relu()
        x = functional.conv2d(x, self.functional[0].weight, self.functional[0].bias, padding=1)
        x = self.tied_too(self.tied(x).relu()).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.fc(torch.einsum("bnc,bmc->bnm", x, x) @ x).mean(1)


@pytest.fixture
def settled() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    original = Mixed()
    return original, settle(copy.deepcopy(original), SHAPE)


LEFT = {"uneven", "scaled", "functional.0", "tied", "tied_too", "attention.out_proj"}


def test_what_computes_the_same_becomes_plain_and_nothing_else_changes(settled) -> None:
    original, made = settled
    images = torch.randn(3, *SHAPE)
    assert (type(made.same), made.same.padding, type(made.point)) == (nn.Conv2d, (1, 1), nn.Conv2d)
    assert (type(made.uneven), made.uneven.pads) == (PaddedConv2d, (0, 1, 0, 1))
    assert type(made.scaled) is Standardised
    torch.testing.assert_close(made.eval()(images), original.eval()(images))
    assert made.state_dict().keys() == original.state_dict().keys()


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 16), (5, 2, 16), (5, 2, 15), (3, 3, 17), (2, 1, 16)])
def test_an_uneven_padding_is_found_for_the_images(kernel: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    layer, images = Padded(4, 8, kernel, stride=stride, groups=2), torch.randn(2, 4, side, side)
    made = settle(nn.Sequential(layer), (4, side, side))[0]
    assert type(made) in (PaddedConv2d, nn.Conv2d) and made.weight is layer.weight
    torch.testing.assert_close(made(images), layer(images))


def test_the_others_are_left_alone_by_every_choice_of_layers(settled) -> None:
    _, made = settled
    assert set(left_alone(made)) == LEFT
    assert set(maskable(made)) == set(decomposable(made)) == {"same", "point", "fc"}
    assert set(convolutions(made)) == {"same", "point"}
    assert getattr(copy.deepcopy(made).tied, LEFT_ALONE) == "its weights are shared"


def test_what_is_left_alone_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "paredown")
    _tell.cache_clear()
    settle(Mixed(), SHAPE)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Mixed: 6 of 9 convolutions and linear layers are left as they are" in line
    assert "scaled (Standardised computes something else" in line and "tied, tied_too (its weights are shared)" in line


def test_a_target_is_one_of_the_whole_network(settled) -> None:
    _, made = settled
    for target in (Target("sparsity", 0.1), Target("speed_up", 1.15)):
        network = Network(copy.deepcopy(made), {}, SHAPE)
        dense = count(network.module, SHAPE)
        sparsify(network, lambda now: magnitude(now.module), target)
        cost = count(network.module, SHAPE)
        reached = 1 - cost.weights / dense.weights if target.quantity == "sparsity" else dense.macs / cost.macs
        assert reached == pytest.approx(target.value, rel=0.01)


def test_every_product_is_counted_once_where_it_stands(settled) -> None:
    rows = {row.name: row.macs for row in count(settled[1], SHAPE).layers}
    side, tokens = 16, 64  # of the image, and of a network whose second convolution halves it
    assert (rows["same"], rows["uneven"]) == (3 * 8 * 9 * side**2, 8 * 8 * 9 * tokens)
    assert rows["functional.0"] == 0 and rows["convolution"] == 8 * 8 * 9 * tokens  # called as a function
    assert rows["tied"] == rows["tied_too"] == 8 * 8 * tokens
    inside = {name: macs for name, macs in rows.items() if name.startswith("attention")}
    assert sum(inside.values()) == tokens * 8 * 8 * 4 + 2 * tokens * tokens * 8
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        settled[0].eval()(torch.zeros(1, *SHAPE))
    assert sum(rows.values()) == counter.get_total_flops() // 2
