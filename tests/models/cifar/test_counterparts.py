"""The paper's networks against explicit weight counts and each other (the card says where the tables differ)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.cost import count
from paredown.layers.local import LocallyConnected2d
from paredown.models.cifar.counterparts import InPlaceOfConv, counterpart, three_fc
from paredown.models.torchvision import resnet18

D_CONV = {3: [81, 162, 324, 648, 1296, 2592, 5184, 10368], 8: [216, 1152, 2304, 4608, 9216, 18432, 36864, 73728]}
D_FC = {
    3: [9437184, 4718592, 2359296, 1179648, 589824, 294912, 147456, 73728],
    8: [25165824, 33554432, 16777216, 8388608, 4194304, 2097152, 1048576, 524288],
}
D_LOCAL = {3: [82944] + [41472, 82944] * 3 + [41472], 8: [221184] + [294912, 589824] * 3 + [294912]}
S = {"conv": {3: 729, 8: 1944}, "local": {3: 186_624, 8: 497_664}, "fc": {3: 2_359_296, 8: 6_291_456}}
ROWS = {
    ("s", connection): {alpha: [first, 6 * 32**2 * alpha**2, 240 * alpha] for alpha, first in rows.items()}
    for connection, rows in S.items()
} | {
    ("d", connection): {alpha: [*convs, 4 * 32**2 * alpha**2, 640 * alpha] for alpha, convs in rows.items()}
    for connection, rows in (("conv", D_CONV), ("local", D_LOCAL), ("fc", D_FC))
}
TOTALS = {
    ("s", "conv"): (56_745, 397_080),
    ("s", "local"): (242_640, 892_800),
    ("s", "fc"): (2_415_312, 6_686_592),
    ("d", "conv"): (59_439, 413_784),
    ("d", "local"): (536_448, 3_437_568),
    ("d", "fc"): (18_839_424, 92_017_664),
}


def weights(network: nn.Module) -> list[int]:
    kinds = nn.Conv2d | nn.Linear | LocallyConnected2d
    return [layer.weight.numel() for layer in network.modules() if isinstance(layer, kinds)]


@pytest.mark.parametrize(("family", "connection"), ROWS)
def test_weights_layer_by_layer_at_32x32_and_10_classes(family, connection) -> None:
    for alpha, total in zip((3, 8), TOTALS[family, connection], strict=True):
        with torch.device("meta"):
            network = counterpart(family, connection, alpha)
        assert weights(network) == ROWS[family, connection][alpha]
        assert sum(weights(network)) == total


@pytest.mark.parametrize(("family", "connection"), ROWS)
@pytest.mark.parametrize(("alpha", "side", "classes"), [(1, 16, 100), (2, 48, 7)])
def test_weights_in_closed_form_at_any_size(family, connection, alpha, side, classes) -> None:
    s, a, c = side, alpha, classes
    first = {"conv": 243 * a, "local": 243 * s**2 * a // 4, "fc": 3 * s**4 * a // 4}[connection]
    expected = {
        "s": first + 6 * s**2 * a**2 + 24 * c * a,
        "d": {
            "conv": (9 * 254 + 4 * s**2) * a**2 + (27 + 64 * c) * a,
            "local": 49 * s**2 * a**2 + (27 * s**2 + 64 * c) * a,
            "fc": s**4 * a**2 * 127 // 128 + 4 * s**2 * a**2 + (3 * s**4 + 64 * c) * a,
        }[connection],
    }[family]
    with torch.device("meta"):
        network = counterpart(family, connection, alpha, num_classes=classes, image_size=(side, side))
        images = torch.empty(2, 3, side, side)
    assert sum(weights(network)) == expected
    assert network(images).shape == (2, classes)


def test_3_fc_has_as_many_weights_as_s_fc() -> None:
    for hidden, alpha in ((1469, 8), (648, 3)):
        with torch.device("meta"):
            own, other = sum(weights(three_fc(hidden))), sum(weights(counterpart("s", "fc", alpha)))
        assert own == 3072 * hidden + hidden**2 + 10 * hidden
        assert own == pytest.approx(other, rel=1e-3)


def test_resnet_18_for_cifar() -> None:
    with torch.device("meta"):
        network = resnet18(10, stem="cifar")
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962


@pytest.mark.parametrize("family", ["s", "d"])
def test_local_with_tied_weights_and_fc_with_scattered_ones_compute_what_conv_does(family) -> None:
    torch.manual_seed(0)
    conv, local, fc = (
        counterpart(family, connection, 2, image_size=(16, 16)).double() for connection in ("conv", "local", "fc")
    )
    convs = [name for name, layer in conv.named_children() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for name in convs:
            kernel = getattr(conv, name).weight.flatten(1).T
            tied = getattr(local, name)
            tied.weight.copy_(kernel.expand_as(tied.weight) * tied.live)
            matrix = getattr(fc, name)
            assert isinstance(matrix, InPlaceOfConv)
            matrix.weight.copy_(tied.filters(torch.arange(matrix.out_features)).flatten(1))
        for name in ("fc1", "fc2"):
            for other in (local, fc):
                getattr(other, name).weight.copy_(getattr(conv, name).weight)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = conv.eval()(x)
    torch.testing.assert_close(local.eval()(x), expected)
    torch.testing.assert_close(fc.eval()(x), expected)


@pytest.mark.parametrize(("family", "connection"), ROWS)
@pytest.mark.parametrize("norm", ["channel", "unit"])
def test_deployed_computes_the_same_and_both_counters_agree(family, connection, norm) -> None:
    network = counterpart(family, connection, 1, 0.5, norm, bias=True, image_size=(16, 16))
    network(torch.randn(8, 3, 16, 16))  # running statistics that are not those of the start
    assert prove_equal(network, deploy(network), (3, 16, 16)) < 1e-9
    cost = count(network, (3, 16, 16))
    live = [
        layer.active_weights() if isinstance(layer, LocallyConnected2d) else layer.weight.numel()
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | LocallyConnected2d)
    ]
    assert cost.weights == sum(live)


def test_norms_of_a_locally_connected_layer() -> None:
    channel, unit = (counterpart("s", "local", 2, norm=norm, image_size=(8, 8)) for norm in ("channel", "unit"))
    assert channel.bn1.num_features == 2 and unit.bn1[1].num_features == 2 * 16
    x = torch.randn(64, 3, 8, 8) + 1
    maps = unit.bn1(unit.conv1(x))
    torch.testing.assert_close(maps.mean(dim=0), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)


def test_dropout_acts_on_the_inputs_of_the_last_two_linear_layers() -> None:
    for network in (counterpart("s", "fc", 1, 0.25, image_size=(8, 8)), three_fc(20, 0.25, image_size=(8, 8))):
        children = dict(network.named_children())
        names = list(children)
        dropped = [names[i + 1] for i, name in enumerate(names) if isinstance(children[name], nn.Dropout)]
        assert dropped == [name for name in names if isinstance(children[name], nn.Linear)][-2:]
        assert {layer.p for layer in children.values() if isinstance(layer, nn.Dropout)} == {0.25}
    assert not any(isinstance(module, nn.Dropout) for module in counterpart("s", "fc", 1).modules())


@pytest.mark.parametrize("bias", [False, True])
def test_the_last_layer_alone_may_have_a_bias(bias: bool) -> None:
    networks = [
        counterpart("s", "conv", 1, bias=bias, image_size=(8, 8)),
        three_fc(20, bias=bias, image_size=(8, 8)),
    ]
    for network in networks:
        kinds = nn.Conv2d | nn.Linear
        biases = [layer.bias is not None for layer in network.modules() if isinstance(layer, kinds)]
        assert biases == [False, False, bias]


ARCHITECTURE = {
    "_target_": "paredown.models.cifar.counterparts.counterpart",
    "family": "s",
    "connection": "conv",
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"family": "d", "image_size": (24, 24)}, "model d_conv halves the image 4 times: 24x24 pixels .*16"),
        ({"family": "s", "image_size": (9, 8)}, "model s_conv halves the image 1 time: 8x9 pixels .*of 2 "),
        ({"alpha": 0}, r"model\.alpha=0 \(at least 1\)"),
        ({"dropout": 1}, r"model\.dropout=1 \(in \[0, 1\)\)"),
        ({"connection": "lokal"}, "model.connection='lokal': did you mean local"),
        ({"norm": "batch"}, "model.norm='batch': known: channel, unit"),
    ],
)
def test_wrong_values_are_one_line(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        blueprint.create(
            {"_target_": "paredown.models.cifar.counterparts.counterpart", "family": "s", "connection": "conv"}
            | settings,
            (3, 32, 32),
        )
