"""SSC in packed form against the masked dense layer, in float64: values, gradients, and what training makes of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paredown.layers.ssc.layer import SSCConv2d, build
from paredown.layers.ssc.packed import MIN_GROUP_CHANNELS, packed_groups
from paredown.layers.ssc.pattern import support

# M, N, K, stride, dilation, g, p: p > g, a g that is no power of two, widths that the shifts wrap around, no 1 x 1s
LAYERS = [
    (64, 128, 3, 1, 1, 8, 3),
    (64, 48, 3, 2, 1, 4, 2),
    (32, 96, 3, 1, 2, 4, 8),
    (96, 96, 5, 1, 1, 6, 12),
    (32, 64, 3, 1, 1, 2, 0),
    (64, 64, 1, 2, 1, 0, 4),
    (48, 32, 3, 3, 1, 48, 30),
]


def layer(m: int, n: int, k: int, stride: int, dilation: int, g: int, p: int, **pattern: str) -> SSCConv2d:
    torch.manual_seed(0)
    return build(nn.Conv2d(m, n, k, stride, dilation * (k // 2), dilation).double(), g, p, **pattern)  # type: ignore[arg-type]


def results(conv: SSCConv2d, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a random linear function of it."""
    y = conv(x)
    along = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    return [y.detach(), *torch.autograd.grad(y, (x, conv.weight, conv.bias), along)]


@pytest.mark.parametrize("sizes", LAYERS, ids=str)
@pytest.mark.parametrize("parity", ["halves", "alternate", "block"])
def test_packed_is_the_masked_convolution_and_so_are_its_gradients(sizes: tuple[int, ...], parity: str) -> None:
    conv = layer(*sizes, parity=parity)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, sizes[0], 7, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        conv.groups_run = 1
        masked = results(conv, x)
        conv.pack()
        assert conv.groups_run > 1
        packed = results(conv, x)
        for ours, theirs in zip(packed, masked, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        assert not packed[2][~conv.mask].any()


def test_momentum_and_weight_decay_make_the_same_weights_of_it() -> None:
    """Thirty steps of two layers with a batch norm between, both ways."""
    trained = []
    for packs in (False, True):
        torch.manual_seed(0)
        convs = [build(nn.Conv2d(32, 64, 3, padding=1), 2, 2), build(nn.Conv2d(64, 64, 3, 2, 1), 4, 3)]
        network = nn.Sequential(
            convs[0], nn.BatchNorm2d(64), nn.ReLU(), convs[1], nn.Flatten(), nn.Linear(576, 3)
        ).double()
        for conv in convs:
            conv.pack() if packs else None
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
        images, labels = torch.randn(8, 32, 5, 5, dtype=torch.float64), torch.arange(8) % 3
        for _ in range(30):
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
        assert not any(conv.weight[~conv.mask].any() for conv in convs) and loss < 0.1
        trained.append(network.state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=0, atol=1e-10)


def test_the_groups_are_those_that_the_pattern_has() -> None:
    """Every number of groups against the mask itself: outside of the groups there are centre taps alone."""
    for m, n, (g, p) in itertools.product(
        (32, 48, 64), (32, 96), [(2, 2), (4, 3), (6, 4), (4, 8), (3, 5), (16, 7), (2, 3)]
    ):
        mask = support(m, n, 3, g, p)
        possible = [groups for groups in range(1, m + 1) if fits(mask, groups)]
        found = packed_groups(nn.Conv2d(m, n, 3, padding=1), g, p)
        assert found in possible
        # a larger one of equally wide groups would be as right; that of the paper's residues divides the spacings
        assert all(groups <= found for groups in possible if max(g, p) % groups == 0 and g % groups == 0)


def fits(mask: Tensor, groups: int) -> bool:
    n, m = mask.shape[:2]
    if n % groups or m % groups or (min(n, m) // groups < MIN_GROUP_CHANNELS and groups > 1):
        return False
    across = (torch.arange(n)[:, None] - torch.arange(m)) % groups != 0
    elsewhere = mask & across[..., None, None]
    elsewhere[:, :, 1, 1] = False
    return not elsewhere.any()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3),  # the centre tap leaves the input
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 30, 3, padding=1),  # groups of 15 filters
        nn.Conv2d(65, 64, 3, padding=1),
    ],
    ids=str,
)
def test_what_does_not_split_stays_masked_dense(conv: nn.Conv2d) -> None:
    made = build(conv, 8, 4)
    x = torch.randn(2, conv.in_channels, 5, 5)
    before = made(x)
    made.pack()
    assert made.groups_run == 1 and torch.equal(made(x), before)
