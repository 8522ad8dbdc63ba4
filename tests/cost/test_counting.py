"""The count against hand-written closed forms, published totals, and networks made to mislead it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.cost import Cost, CostError, compare, count
from paredown.errors import UserError
from paredown.layers.masked import MaskedConv2d
from paredown.models.resnet import cifar_resnet


@pytest.mark.parametrize(
    ("layer", "macs", "params"),
    [
        (nn.Conv2d(6, 8, 3, padding=1), 8 * 6 * 9 * 20 * 14, 8 * 6 * 9 + 8),
        (nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), 8 * 6 * 9 * 10 * 7, 8 * 6 * 9),
        (nn.Conv2d(6, 8, 3, dilation=2), 8 * 6 * 9 * 16 * 10, 8 * 6 * 9 + 8),
        (nn.Conv2d(6, 8, (1, 5), stride=(3, 2), groups=2), 8 * 3 * 5 * 7 * 5, 8 * 3 * 5 + 8),
        (nn.Conv2d(6, 12, 5, groups=6, padding="same"), 12 * 25 * 20 * 14, 12 * 25 + 12),
        (nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"), 8 * 6 * 9 * 20 * 14, 8 * 6 * 9 + 8),
        (nn.Linear(14, 5), 14 * 5 * 6 * 20, 14 * 5 + 5),  # on the last of three dimensions
    ],
    ids=["bias", "stride", "dilation", "groups", "depthwise", "circular", "linear"],
)
def test_a_layer_costs_what_its_closed_form_says(layer, macs, params):
    cost = count(nn.Sequential(layer), (6, 20, 14))
    weights = params if layer.bias is None else params - len(layer.bias)
    assert (cost.macs, cost.params, cost.weights) == (macs, params, weights)
    assert count(layer, (6, 20, 14)).macs == macs  # also where the layer is the whole network


TABLE = [  # depth, shortcut, parameters, conv + linear MACs: SVD training's networks
    (20, "A", 269_722, 40_551_040),
    (20, "B", 272_474, 40_813_184),
    (56, "A", 853_018, 125_485_696),
    (56, "B", 855_770, 125_747_840),
    (110, "B", 1_730_714, 253_149_824),
]


@pytest.mark.parametrize(("depth", "shortcut", "params", "macs"), TABLE)
def test_cifar_resnets_cost_what_is_published(depth, shortcut, params, macs):
    cost = count(cifar_resnet(depth, shortcut=shortcut), (3, 32, 32))
    assert (cost.params, cost.macs) == (params, macs)


def test_layers_are_listed_with_their_shapes():
    stem, *_, last = count(cifar_resnet(20), (3, 32, 32)).layers
    assert (stem.name, stem.kind, stem.input_shape, stem.output_shape) == ("conv", "Conv2d", (3, 32, 32), (16, 32, 32))
    assert (stem.macs, stem.weights) == (16 * 27 * 1024, 16 * 27)
    assert (last.name, last.kind, last.input_shape, last.output_shape, last.macs) == ("fc", "Linear", (64,), (10,), 640)


def test_a_mask_counts_by_its_active_weights_and_not_by_accidental_zeros():
    dense = nn.Conv2d(4, 6, 3, padding=1)
    mask = torch.zeros(6, 4, 3, 3, dtype=torch.bool)
    mask[:, :2, 1] = True  # 6 * 2 * 3 = 36 of 216
    masked = MaskedConv2d(dense, mask)
    with torch.no_grad():
        masked.weight[0].zero_()  # as after a bad initialisation
    cost = count(nn.Sequential(masked, nn.BatchNorm2d(6)), (4, 8, 8))
    assert (cost.macs, cost.weights, cost.params) == (36 * 64, 36, 36 + 6 + 12)


def test_a_rewritten_layer_counts_as_one(low_rank):
    cost = count(nn.Sequential(low_rank(4, 2, 6), nn.ReLU()), (4, 8, 8))
    assert [layer.name for layer in cost.layers] == ["0"]
    assert (cost.weights, cost.params, cost.macs) == (2 * 36 + 12, 2 * 36 + 12 + 6, (2 * 36 + 12) * 64)


def test_a_wrong_closed_form_stops_the_count_naming_the_layer(low_rank):
    with pytest.raises(CostError, match=r"^1: closed form says 7 MACs, torch's counter 5376$"):
        count(nn.Sequential(nn.ReLU(), low_rank(4, 2, 6, says=7)), (4, 8, 8))


def test_wrong_active_weights_stop_the_count(low_rank):
    class Boasting(low_rank):
        def active_weights(self):
            return super().active_weights() - 1

        def macs(self, input_shape):
            return super().active_weights() * 64

    with pytest.raises(CostError, match="closed form says 89 parameters, the deployed network holds 90"):
        count(Boasting(4, 2, 6), (4, 8, 8))


class Twice(nn.Module):
    """One convolution called twice, under two names, and one that no call reaches."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.again, self.unused = conv, conv, nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.again(input=self.conv(x))


@pytest.mark.parametrize("rewritten", [False, True])
def test_each_call_costs_macs_and_each_weight_counts_once(low_rank, rewritten):
    conv = low_rank(4, 2, 4) if rewritten else nn.Conv2d(4, 4, 3, padding=1)
    weights = 2 * 36 + 8 if rewritten else 144
    cost = count(Twice(conv), (4, 8, 8))
    assert (cost.macs, cost.weights, cost.params) == (2 * weights * 64, weights + 16, weights + 4 + 20)


def test_a_weight_two_layers_share_counts_once():
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.weight = one.weight
    cost = count(nn.Sequential(one, two), (8,))
    assert (cost.macs, cost.weights, cost.params) == (128, 64, 80)


class Attention(nn.Module):
    """Channel attention whose products torch.nn has no module for."""

    def __init__(self, product):
        super().__init__()
        self.product = product

    def forward(self, x):
        return self.product(x.flatten(2))


PRODUCTS = {
    "matmul": lambda x: x @ x.transpose(1, 2),
    "einsum": lambda x: torch.einsum("bcn,bdn->bcd", x, x),
    "conv": lambda x: nn.functional.conv1d(x, torch.ones(3, 4, 1)),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_outside_of_any_layer_stops_the_count_naming_the_module(product):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Attention(PRODUCTS[product])))
    with pytest.raises(CostError, match=r"^1\.0: \d+ MACs in a matrix product outside of Conv2d and Linear"):
        count(network, (3, 8, 8))


def test_a_convolution_of_another_type_stops_the_count():
    with pytest.raises(CostError, match=r"^1: 9216 MACs"):
        count(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 3)), (3, 8, 8))


def test_an_unknown_operator_stops_the_count_naming_it_and_its_module():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Attention(lambda x: x.cumsum(-1)))
    with pytest.raises(CostError, match=r"Sequential\.1: no counter knows the operator 'cumsum'"):
        count(network, (3, 8, 8))


def test_an_image_the_network_does_not_take_is_the_users_mistake():
    with pytest.raises(UserError, match=r"^Conv2d does not run on an image of shape \(1, 8, 8\): .*channels"):
        count(nn.Conv2d(3, 4, 3), (1, 8, 8))


def test_counting_leaves_the_network_and_the_generator_as_they_were(low_rank):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), low_rank(4, 2, 6)).train()
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    count(network, (3, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [module.training for module in network] == [True, True, False, True]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(generator, torch.get_rng_state())


def test_modes_and_hooks_are_restored_after_a_failure():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Attention(PRODUCTS["matmul"]), nn.Conv2d(9, 9, 1)).train()
    with pytest.raises(UserError):
        count(network, (3, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_networks_own_dtype_is_used(dtype, low_rank):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), low_rank(4, 2, 6)).to(dtype)
    assert count(network, (3, 8, 8)).macs == (108 + 84) * 64


def test_inference_mode_around_the_count_hides_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2), nn.Linear(64, 5))
    with torch.inference_mode():
        assert count(network, (3, 8, 8)).macs == 12 * 64 + 4 * 64 * 5
        with pytest.raises(CostError):
            count(Attention(PRODUCTS["matmul"]), (3, 8, 8))


def test_frozen_parameters_are_still_parameters():
    network = nn.Conv2d(3, 4, 1).requires_grad_(False)
    assert count(network, (3, 8, 8)).params == 16


def test_comparison_with_the_dense_network():
    metrics = compare(Cost(25, 40, 10, ()), Cost(100, 60, 40, ()))
    assert metrics == {
        "cost/macs": 25,
        "cost/params": 40,
        "cost/weights": 10,
        "cost/dense_macs": 100,
        "cost/dense_params": 60,
        "cost/speed_up": 4.0,
        "cost/compression": 1.5,
        "cost/sparsity": 0.75,
    }


@pytest.mark.gpu
def test_a_network_on_a_gpu_counts_the_same(low_rank):
    network = nn.Sequential(cifar_resnet(20)).to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    assert count(network, (3, 32, 32)).macs == 40_813_184
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), low_rank(4, 2, 6)).cuda()
    state = torch.cuda.get_rng_state()
    assert count(network, (3, 8, 8)).macs == (108 + 84) * 64
    assert torch.equal(state, torch.cuda.get_rng_state())
