"""Whole networks: SSC's reference counts, torchvision's totals, and torch's own counter beside ours."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paredown.core import blueprint
from paredown.core.network import Network
from paredown.cost import CostError, compare, count
from paredown.cost.conventions import macs_under
from paredown.methods.sparse.ssc.choice import apply_pair

RESNET32 = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 32, "width": 2}
VGG19 = {"_target_": "paredown.models.cifar.vgg.vgg19_bn"}


def ssc(architecture: dict, size: int, g: int, p: int, p_1x1: int) -> Network:
    network = blueprint.create(architecture, (3, size, size))
    for name, (own_g, own_p) in apply_pair(network.module, g, p, p_1x1).layers.items():
        blueprint.rewrite(network, name, "ssc", g=own_g, p=own_p)
    return network


# Counted outside of this project: (g, p, p of 1x1 layers), weights kept, batch norm and biases, MACs kept.
@pytest.mark.parametrize(
    ("architecture", "classes", "size", "pair", "weights", "others", "macs"),
    [
        (RESNET32, 10, 32, (8, 3, 4), 178_656, 4_938, 26_879_232),
        (RESNET32, 10, 32, (16, 6, 8), 93_024, 4_938, 14_320_896),
        (RESNET32, 10, 32, (12, 12, 12), 88_000, 4_938, 12_850_432),
        (RESNET32, 100, 32, (64, 32, 32), 33_792, 5_028, 4_563_456),
        (RESNET32, 200, 64, (4, 7, 4), 279_776, 5_128, 153_150_464),
        (VGG19, 10, 32, (32, 25, 1), 401_152, 11_018, 9_499_648),
    ],
)
def test_ssc_networks_keep_exactly_what_the_reference_keeps(architecture, classes, size, pair, weights, others, macs):
    network = ssc(architecture | {"num_classes": classes}, size, *pair)
    cost = count(network.module, network.input_shape)
    assert (cost.macs, cost.weights, cost.params) == (macs, weights, weights + others)


def test_the_metrics_of_an_ssc_network_against_its_dense_one():
    dense = blueprint.create(RESNET32, (3, 32, 32))
    metrics = compare(*(count(net.module, (3, 32, 32)) for net in (ssc(RESNET32, 32, 16, 6, 8), dense)))
    assert metrics["cost/sparsity"] == pytest.approx(0.94987, abs=5e-6)
    assert metrics["cost/speed_up"] == 275_612_928 / 14_320_896
    assert metrics["cost/compression"] == 1_860_522 / (93_024 + 4_938)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("resnet18", 11_689_512, 1_814_073_344), ("mobilenet_v2", 3_504_872, 299_494_272 + 1_280_000)],
)
def test_torchvisions_networks_have_their_known_totals(name, params, macs):
    cost = count(getattr(torchvision.models, name)(), (3, 224, 224))
    assert (cost.params, cost.macs) == (params, macs)


@pytest.mark.parametrize("name", ["efficientnet_b0", "shufflenet_v2_x0_5", "mobilenet_v3_small", "regnet_y_400mf"])
def test_a_dense_network_costs_what_torchs_own_counter_says(name):
    model = getattr(torchvision.models, name)().eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert 2 * count(model, (3, 64, 64)).macs == flops.get_total_flops()


SWIN = ([4, 4], 16, [1, 1], [2, 4], [4, 4])


@pytest.mark.parametrize(
    "network",
    [
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32),
        lambda: torchvision.models.SwinTransformer(*SWIN),
    ],
    ids=["vit", "swin"],
)
def test_a_transformer_costs_what_torchs_own_counter_says(network, monkeypatch):
    model = network().eval()
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    cost = count(model, (3, 32, 32))
    assert 2 * cost.macs == flops.get_total_flops()
    outside = sum(row.macs for row in cost.layers if ":" in row.name)
    assert 0 < outside < cost.macs and any("attn" in row.name or "attention" in row.name for row in cost.layers)


class Tokens(nn.Module):
    """Hands its linear layer the pixels as a batch, as networks with windows do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).permute(0, 2, 3, 1).reshape(-1, 4))


def test_what_is_folded_into_the_batch_is_counted_too():
    assert count(Tokens(), (3, 8, 8)).macs == macs_under("conv_fc", Tokens(), (3, 8, 8)) == (12 + 20) * 64


class Net(nn.Module):
    """A convolution, then `function` on what it gives; its name is shorter than a tracker's word for the outside."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 6, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (torch.fft.fft2, "_fft"),
        (lambda x: torch.cdist(x, x), "_cdist"),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), "upsample_bilinear2d"),
        (lambda x: torchvision.ops.roi_align(x, [torch.zeros(1, 4)], 2), "torchvision::roi_align"),
    ],
    ids=["fft", "cdist", "bilinear", "torchvision"],
)
def test_an_unknown_operator_in_the_network_itself_names_the_network(function, operator):
    with pytest.raises(CostError, match=rf"^Net: .*'{operator}"):
        count(Net(function), (3, 8, 8))
