"""Factorised convolutions against the dense ones they come from, and against counts worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.compressed import CompressedLayer
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers.factorised import low_rank, pair
from paredown.layers.factorised.forms import full_rank, kernel_shape, matrices
from paredown.layers.factorised.low_rank import decompose
from paredown.surgery.factorise import convolutions

SETTINGS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 5), "dilation": 2, "padding": (2, 1)},
    {"kernel_size": (1, 7), "stride": (1, 3), "padding": (0, 3)},
    {"kernel_size": 4, "dilation": 2, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
]
KINDS = {
    "low_rank": low_rank.build,
    "pair": lambda dense, factorisation, rank: pair.build(dense, factorisation, 1, rank),
}
FORMS = ("in_group", "vertical_first")
E1 = ((16, 16, 3, 1, 1), (32, 32))
E2 = ((16, 32, 3, 2, 1), (32, 32))
E5 = ((16, 32, 1, 2, 0), (32, 32))
E7 = ((3, 64, 7, 2, 3), (224, 224))
E8 = ((8, 12, 3, 2, 1), (15, 17))
# (inputs, outputs, kernel, stride, padding), image, form, rank, full rank, parameters, MACs
WORKED = [
    (*E1, "in_group", 16, 16, 2_560, 2_621_440),
    (*E1, "in_group", 8, 16, 1_280, 1_310_720),
    (*E1, "in_group", 4, 16, 640, 655_360),
    (*E1, "vertical_first", 48, 48, 4_608, 4_718_592),
    (*E1, "vertical_first", 12, 48, 1_152, 1_179_648),
    (*E2, "in_group", 32, 32, 5_632, 1_441_792),
    (*E2, "in_group", 8, 32, 1_408, 360_448),
    (*E2, "vertical_first", 48, 48, 6_912, 2_359_296),
    (*E2, "vertical_first", 12, 48, 1_728, 589_824),
    ((64, 64, 3, 1, 1), (8, 8), "in_group", 16, 64, 10_240, 655_360),
    ((64, 64, 3, 1, 1), (8, 8), "vertical_first", 24, 192, 9_216, 589_824),
    ((3, 16, 3, 1, 1), (32, 32), "in_group", 8, 16, 344, 352_256),
    ((3, 16, 3, 1, 1), (32, 32), "vertical_first", 6, 9, 342, 350_208),
    (*E5, "in_group", 4, 16, 192, 49_152),
    (*E5, "vertical_first", 4, 16, 192, 65_536),
    ((64, 256, 1, 1, 0), (56, 56), "in_group", 16, 64, 5_120, 16_056_320),
    ((64, 256, 1, 1, 0), (56, 56), "vertical_first", 16, 64, 5_120, 16_056_320),
    (*E7, "in_group", 32, 64, 6_752, 84_697_088),
    (*E7, "vertical_first", 16, 21, 7_504, 98_344_960),
    (*E8, "in_group", 5, 12, 432, 30_240),
    (*E8, "vertical_first", 7, 24, 432, 40_992),
    ((64, 128, 3, 1, 1), (28, 28), "in_group", 32, 128, 22_528, 17_661_952),
    ((64, 128, 3, 1, 1), (28, 28), "vertical_first", 40, 192, 23_040, 18_063_360),
]
# architecture, image, layers, share of the full rank, form, MACs of convolutions, speed-up, parameters
NETWORKS = [
    ({"depth": 20}, "all", 0.5, "in_group", 22_962_176, 1.7774, 154_242),
    ({"depth": 20}, "all", 0.5, "vertical_first", 40_603_648, 1.0051, 265_870),
    ({"depth": 20}, "all", 0.25, "in_group", 11_481_088, 3.5548, 78_230),
    ({"depth": 20}, "all", 0.25, "vertical_first", 20_301_824, 2.0103, 134_044),
    ({"depth": 20, "shortcut": "A"}, "all", 0.25, "in_group", 11_382_784, 3.5624, 77_078),
    ({"depth": 20, "shortcut": "A"}, "all", 0.25, "vertical_first", 20_170_752, 2.0104, 132_892),
    ({"depth": 20}, "trp", 0.25, "in_group", 13_549_568, 3.0121, 96_090),
    ({"depth": 20}, "trp", 0.25, "vertical_first", 21_938_176, 1.8603, 150_362),
    ({"depth": 32}, "all", 0.25, "in_group", 19_345_408, 3.5732, 132_886),
    ({"depth": 32}, "all", 0.25, "vertical_first", 34_457_600, 2.0061, 231_708),
    ({"depth": 56, "block": "bottleneck"}, "all", 0.25, "in_group", 38_187_008, 3.3341, 270_614),
    ({"depth": 56, "block": "bottleneck"}, "all", 0.25, "vertical_first", 53_987_328, 2.3583, 367_324),
    ("resnet18", "all", 0.25, "in_group", 520_024_064, 3.4875, 3_685_016),
    ("resnet18", "all", 0.25, "vertical_first", 878_506_496, 2.0644, 5_888_657),
    ("resnet50", "all", 0.25, "in_group", 1_259_417_600, 3.2453, 9_255_064),
    ("resnet50", "all", 0.25, "vertical_first", 1_784_082_944, 2.2909, 11_768_977),
]


def conv(**settings: object) -> tuple[nn.Conv2d, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(6, 10, **settings).double(), torch.randn(2, 6, 15, 18, dtype=torch.float64)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_at_full_rank_it_is_the_dense_convolution_trained_and_deployed(settings, form) -> None:
    dense, x = conv(**settings)
    layer = decompose(dense, form)
    evaluated = decompose(dense.eval(), form)
    for other in (
        layer,
        evaluated,
        layer.deployed(),
        layer.plain_dense(),
        layer.deployed().to(memory_format=torch.channels_last),
    ):
        torch.testing.assert_close(other(x), dense(x), rtol=1e-12, atol=1e-12)
    assert (
        layer.rank == full_rank(kernel_shape(dense), form)
        and [type(part) for part in layer.deployed()] == [nn.Conv2d] * 2
    )


@pytest.mark.parametrize("training", [True, False], ids=["by the product", "by two convolutions"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_are_those_of_the_dense_convolution(settings, form, training) -> None:
    dense, x = conv(**settings)
    layer = decompose(dense.train(training), form)
    product = layer.effective_weight()
    product.retain_grad()
    layer(x).square().sum().backward()
    dense(x).square().sum().backward()
    through_the_product = torch.autograd.grad(product, [layer.U, layer.s, layer.V], dense.weight.grad)
    for own, other in zip((layer.U, layer.s, layer.V), through_the_product, strict=True):
        torch.testing.assert_close(own.grad, other, rtol=1e-9, atol=1e-9)


@pytest.fixture
def used(monkeypatch) -> list[torch.Size]:
    """The shapes of the weights that layers convolve with, as they do."""
    seen: list[torch.Size] = []
    original = low_rank.conv_forward

    def counted(conv: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(weight.shape)
        return original(conv, x, weight, bias)

    monkeypatch.setattr(low_rank, "conv_forward", counted)
    return seen


# of a weight (10, 6, 3, 3) on 15 x 18 positions: two convolutions of rank 18 or 10 have 1.8 or 1.2 times the MACs
@pytest.mark.parametrize(("form", "rank"), [("vertical_first", 18), ("horizontal_first", 18), ("in_group", 10)])
def test_in_training_one_convolution_stands_for_two_that_cost_more(form, rank, used) -> None:
    dense, x = conv(kernel_size=3, padding=1)
    layer = decompose(dense, form)
    assert layer.rank == rank
    layer(x)
    assert used == [dense.weight.shape]
    used.clear()
    layer(x[0])  # without a batch
    layer.truncated(rank // 2)(x)  # fewer than the dense one's
    assert used == [dense.weight.shape, *(one.weight.shape for one in layer.truncated(rank // 2).plain)]
    used.clear()
    layer(x[:1, :, :2, :2])  # on so small a map the product itself costs more than it saves
    layer.eval()(x)  # what will be deployed
    assert len(used) == 4


def test_the_product_is_rounded_once_in_half_precision() -> None:
    torch.manual_seed(0)
    dense, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(4, 16, 8, 8)
    layer = decompose(dense, "horizontal_first")
    with torch.no_grad():
        dense.weight.copy_(layer.effective_weight())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), dense(x))


@pytest.mark.parametrize("training", [True, False], ids=["by the product", "by two convolutions"])
@pytest.mark.parametrize("form", FORMS)
def test_a_singular_value_of_zero_gives_no_nan_and_a_sign_changes_nothing(form, training) -> None:
    dense, x = conv(kernel_size=3)
    layer = decompose(dense.train(training), form)
    with torch.no_grad():
        layer.s[1] *= -1
    torch.testing.assert_close(layer(x), dense(x))
    with torch.no_grad():
        layer.s[0] = 0
        layer.s[2] = 1e-38
    layer(x).sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in layer.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_truncation_is_the_best_approximation_of_its_rank(form) -> None:
    dense, x = conv(kernel_size=3, padding=1)
    s = torch.linalg.svdvals(matrices(dense.weight, form)[0])
    cut, direct = decompose(dense, form).truncated(4), decompose(dense, form, 4)
    torch.testing.assert_close(cut(x), direct(x))
    torch.testing.assert_close(cut.effective_weight(), direct.effective_weight())
    torch.testing.assert_close((cut.effective_weight() - dense.weight).norm(), s[4:].norm())  # Eckart and Young


def test_truncation_keeps_the_largest_by_size_whatever_their_order_and_sign() -> None:
    layer = decompose(conv(kernel_size=1)[0], "in_group")
    with torch.no_grad():
        layer.s.copy_(torch.tensor([1.0, -5, 0.1, 3, -0.2, 2]))
    assert layer.truncated(3).s.tolist() == [-5, 3, 2]


@pytest.mark.parametrize(("shape", "image", "form", "rank", "full", "params", "macs"), WORKED)
@pytest.mark.parametrize("kind", ["low_rank", "pair"])
def test_worked_examples(kind, shape, image, form, rank, full, params, macs) -> None:
    inputs, outputs, size, stride, padding = shape
    bias = shape == E8[0]
    dense = nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias)
    layer = KINDS[kind](dense, form, rank)
    assert full_rank(kernel_shape(dense), form) == full
    assert (
        layer.active_weights() + (outputs if bias else 0)
        == params
        == sum(p.numel() for p in layer.deployed().parameters())
    )
    assert layer.macs((inputs, *image)) == macs
    assert count(nn.Sequential(layer), (inputs, *image)).macs == macs  # agrees with torch's counter or raises
    x = torch.randn(1, inputs, 15, 17)
    assert layer(x).shape == dense(x).shape


def test_the_two_convolutions_of_the_stride_2_example() -> None:
    dense = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
    first, second = decompose(dense, "in_group", 8).deployed()
    assert first.weight.shape == (8, 16, 3, 3) and first.stride == (2, 2) and second.weight.shape == (32, 8, 1, 1)
    first, second = decompose(dense, "vertical_first", 12).deployed()
    assert first.weight.shape == (12, 16, 3, 1) and first.stride == (2, 1)
    assert second.weight.shape == (32, 12, 1, 3) and second.stride == (1, 2)


@pytest.mark.parametrize(("model", "select", "share", "form", "macs", "speed_up", "params"), NETWORKS)
def test_whole_networks(model, select, share, form, macs, speed_up, params) -> None:
    cifar = isinstance(model, dict)
    target = "paredown.models.cifar.resnet.cifar_resnet" if cifar else f"paredown.models.torchvision.{model}"
    settings = model if cifar else {"num_classes": 1000, "in_channels": 3}
    shape = (3, 32, 32) if cifar else (3, 224, 224)
    network = Network(blueprint.build({"_target_": target, **settings}, {}), {}, shape)
    convs = convolutions(network.module, select)

    def conv_macs() -> int:
        return sum(layer.macs for layer in count(network.module, shape).layers if layer.kind != "Linear")

    dense = conv_macs()
    for name, layer in convs.items():
        blueprint.rewrite(
            network,
            name,
            "low_rank",
            factorisation=form,
            rank=max(1, int(share * full_rank(kernel_shape(layer), form))),
        )
    assert conv_macs() == macs and count(network.module, shape).params == params
    assert dense / macs == pytest.approx(speed_up, abs=5e-5)


@pytest.mark.parametrize("kind", ["low_rank", "pair"])
@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_them_saves_loads_and_deploys(kind, form, tmp_path) -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    for name in convolutions(network.module):
        groups = {"groups": 1} if kind == "pair" else {}
        blueprint.rewrite(network, name, kind, factorisation=form, rank=3, **groups)
    blueprint.save(network, tmp_path)
    loaded = blueprint.load(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), network.module.eval()(x))
    deployed = deploy(loaded.double())
    assert prove_equal(loaded, deployed, (3, 16, 16)) < 1e-9
    assert not [module for module in deployed.modules() if isinstance(module, CompressedLayer)]


@pytest.mark.parametrize("form", FORMS)
def test_both_kinds_know_their_dense_weight(form) -> None:
    dense, x = conv(kernel_size=(3, 5), bias=False)
    for made in (decompose(dense, form, 4), pair.decompose(dense, form, 1, 4)):
        torch.testing.assert_close(nn.functional.conv2d(x, made.effective_weight()), made(x))


def test_a_checkpoint_of_other_ranks_is_one_line(tmp_path) -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    blueprint.rewrite(network, "conv", "low_rank", factorisation="vertical_first", rank=3)
    blueprint.save(network, tmp_path)
    text = (tmp_path / "architecture.json").read_text()
    (tmp_path / "architecture.json").write_text(text.replace('"rank": 3', '"rank": 4'))
    with pytest.raises(UserError, match=r"conv\.U has shape \(9, 3\), the network needs \(9, 4\)") as error:
        blueprint.read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layer", "form", "rank", "words"),
    [
        (nn.Conv2d(4, 4, 3), "sideways", 2, "no factorisation 'sideways'"),
        (nn.Conv2d(4, 8, 3), "in_group", 9, "rank 9 is not between 1 and 8, the full rank of in_group with groups=1"),
        (nn.Conv2d(4, 8, 3), "vertical_first", 0, "rank 0 is not between 1 and 12"),
        (nn.Conv2d(4, 4, 3, groups=4), "in_group", 1, "groups=4"),
        (nn.Linear(4, 4), "in_group", 1, "not a Linear"),
    ],
)
def test_mistakes_are_one_line(layer, form, rank, words) -> None:
    for make in (decompose, low_rank.build):
        with pytest.raises(UserError, match=words):
            make(layer, form, rank)
