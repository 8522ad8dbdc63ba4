"""The count against hand-written closed forms, published totals, and networks made to mislead it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core.errors import UserError
from paredown.cost import Cost, CostError, compare, count, products
from paredown.layers.masked import MaskedConv2d
from paredown.models.cifar.resnet import cifar_resnet


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


class Function(nn.Module):
    """A module that computes `function` of the flattened image, which torch.nn has no module for."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.flatten(2))


attend = nn.functional.scaled_dot_product_attention
PRODUCTS = {  # of a (1, 4, 64) input: function, its operator, multiply-adds
    "matmul": (lambda x: x @ x.transpose(1, 2), "bmm", 4 * 64 * 4),
    "einsum": (lambda x: torch.einsum("bcn,bdn->bcd", x, x), "bmm", 4 * 64 * 4),
    "mm": (lambda x: x[0] @ x[0].T, "mm", 4 * 64 * 4),
    "baddbmm": (lambda x: torch.baddbmm(x, torch.ones(1, 4, 3), torch.ones(1, 3, 64)), "baddbmm", 4 * 3 * 64),
    "inplace": (lambda x: x[0].addmm_(torch.ones(4, 3), torch.ones(3, 64)), "addmm", 4 * 3 * 64),
    "vector": (lambda x: x[0] @ torch.ones(64), "mv", 4 * 64),
    "dot": (lambda x: x[0, 0] @ x[0, 1], "dot", 64),
    "conv1d": (lambda x: nn.functional.conv1d(x, torch.ones(3, 4, 5)), "convolution", 3 * 4 * 5 * 60),
    "conv2d": (lambda x: nn.functional.conv2d(x[..., None], torch.ones(6, 2, 1, 1), groups=2), "convolution", 12 * 64),
    "transposed": (lambda x: nn.functional.conv_transpose1d(x, torch.ones(4, 2, 3), stride=2), "convolution", 24 * 64),
    "attention": (lambda x: attend(x, x, x), "bmm", 2 * 4 * 4 * 64),
    "causal": (lambda x: attend(x, x, x, is_causal=True), "bmm", 2 * 4 * 4 * 64),
    "heads": (
        lambda x: attend(x[:, None].expand(1, 2, 4, 64), x[:, None], x[:, None, :, :8], enable_gqa=True),
        "bmm",
        2 * 4 * 4 * (64 + 8),
    ),
}


@pytest.mark.parametrize(("function", "operator", "macs"), PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_outside_of_any_layer_is_a_row_of_its_own(function, operator, macs):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(Function(function)))
    cost = count(network, (3, 8, 8))
    layer, row = cost.layers
    assert (layer.name, layer.macs) == ("0", 12 * 64)
    assert (row.name, row.kind, row.macs, row.weights) == (f"1.0:{operator}", operator, macs, 0)
    assert (cost.macs, cost.weights, cost.params) == (12 * 64 + macs, 12, 16)


def test_a_network_that_is_one_function_has_one_row():
    (row,) = count(Function(PRODUCTS["matmul"][0]), (4, 8, 8)).layers
    assert (row.name, row.macs) == ("bmm", 4 * 64 * 4)


@pytest.mark.parametrize("operator", ["bmm", "convolution"])
def test_a_counter_that_is_wrong_about_a_product_stops_the_count_naming_it(operator, monkeypatch):
    forms = {name: lambda *_: 7 for name in products.CLOSED_FORMS}
    function = {"bmm": PRODUCTS["matmul"][0], "convolution": PRODUCTS["conv1d"][0]}[operator]
    monkeypatch.setattr(products, "CLOSED_FORMS", forms)
    with pytest.raises(CostError, match=rf"^1:{operator}: closed form says 7 MACs, torch's counter \d+$"):
        count(nn.Sequential(nn.Conv2d(3, 4, 1), Function(function)), (3, 8, 8))


class Listed(nn.Module):
    """Layers in containers that are never called themselves, and one whose weight a function uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.ModuleDict({"inner": nn.Conv2d(8, 8, 3)})])
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.layers[1]["inner"](self.layers[0](x).relu())
        return nn.functional.linear(x.mean((2, 3)), self.head.weight)


def test_layers_in_containers_that_are_never_called_are_layers():
    cost = count(Listed(), (3, 16, 16))
    found = {layer.name: layer.macs for layer in cost.layers}
    assert found == {"layers.0": 216 * 14 * 14, "layers.1.inner": 576 * 12 * 12, "head": 0, "mm": 80}
    assert cost.weights == 216 + 576 + 80


def test_a_convolution_of_another_type_is_a_row():
    cost = count(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 5, 3, stride=2)), (3, 8, 8))
    assert [(row.name, row.macs) for row in cost.layers] == [("0", 12 * 64), ("1:convolution", 4 * 5 * 9 * 64)]


class Adapted(nn.Linear):
    """A linear layer with a product of rank 2 added in a forward pass of its own."""

    def __init__(self):
        super().__init__(8, 6)
        self.a, self.b = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.ones(6, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


def test_a_layer_with_a_forward_pass_of_its_own_is_counted_by_its_operators():
    (layer,) = count(nn.Sequential(Adapted()), (5, 8)).layers
    assert (layer.name, layer.macs) == ("0", 5 * (48 + 16 + 12))


def test_a_parametrised_weight_costs_its_layer_nothing_more():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
    assert count(nn.Sequential(conv), (3, 8, 8)).macs == 108 * 64


@pytest.mark.parametrize("training", [True, False])
def test_transformers_are_counted_without_their_fused_kernels(training):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).train(training)
    tokens, width, hidden = 10, 16, 32
    projections = 4 * tokens * width**2 + 2 * tokens * width * hidden
    attention = 2 * tokens**2 * width
    assert count(nn.Sequential(layer), (tokens, width)).macs == projections + attention
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_unknown_operator_stops_the_count_naming_it_and_its_module():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Function(lambda x: torch.fft.rfft(x).abs()))
    with pytest.raises(CostError, match=r"Sequential\.1: no counter knows the operator '_fft_r2c'") as raised:
        count(network, (3, 8, 8))
    assert isinstance(raised.value, UserError)  # the line alone, and exit code 2


@pytest.mark.parametrize(
    "function",
    [
        *(torch.round, torch.atan, torch.erfinv, torch.nan_to_num, nn.functional.celu, nn.functional.softshrink),
        *(
            nn.functional.logsigmoid,
            nn.functional.rrelu,
            lambda x: nn.functional.glu(x, 1),
            lambda x: torch.lerp(x, x, 0.5),
        ),
        *(lambda x: x + torch.rand(x.shape), lambda x: x + torch.empty_like(x).normal_(), torch.rand_like),
        *(lambda x: x[:, torch.randperm(4)], lambda x: nn.functional.gumbel_softmax(x, dim=1)),
        *(lambda x: x.cumsum(1), lambda x: x - x.median(), lambda x: x - torch.var_mean(x, 1, keepdim=True)[1]),
        *(lambda x: x.prod(1, keepdim=True), lambda x: x.logsumexp(1, keepdim=True), lambda x: x * len(x.nonzero())),
        *(lambda x: x.index_add(1, torch.tensor([0]), x[:, :1]), lambda x: x.rot90(1, (-2, -1))),
        lambda x: nn.functional.local_response_norm(x, 3),
    ],
)
def test_what_multiplies_no_matrix_is_free(function):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Function(function))
    assert count(network, (3, 8, 8)).macs == 3 * 4 * 64


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
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Function(PRODUCTS["matmul"][0]), nn.Conv2d(9, 9, 1)).train()
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
        assert count(Function(PRODUCTS["matmul"][0]), (4, 8, 8)).macs == 4 * 64 * 4


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
