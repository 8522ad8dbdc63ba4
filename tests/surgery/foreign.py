"""Networks that a user may bring: each does something with its channels that has to be followed or left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.layers.padded import PaddedConv2d

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions, `body`, global pooling and a classifier."""

    def __init__(self, body: nn.Module | None = None, width: int = 12, out: int | None = None) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.body = body or nn.Identity()
        self.last, self.bn2 = nn.Conv2d(out or width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(functional.relu(self.bn2(self.last(x))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(functional.relu(self.bn1(self.first(x)))))


def product(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] * parts[1]


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class WrittenFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 16, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv(x)), 2).view(-1, 6 * 16)
        return self.fc(torch.relu(self.hidden(x)))


class FreeFlatten(WrittenFlatten):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv(x)), 2)
        return self.fc(torch.relu(self.hidden(x.view(x.size(0), -1))))


class Squeeze(nn.Module):
    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 6), nn.Linear(6, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = torch.sigmoid(self.fc2(functional.relu(self.fc1(functional.adaptive_avg_pool2d(x, 1).view(b, c)))))
        return x * gate.view(b, c, 1, 1)


class SpatialAttention(nn.Module):
    """CBAM's: a gate from the mean and the largest value over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(pooled))


class OneMapGate(nn.Module):
    """A gate of one map for all channels, from a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class Shuffle(nn.Module):
    """A split by slices at half the width, a branch, and a shuffle written with reshape and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(6, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        half = c // 2
        x = torch.cat((x[:, :half], self.conv2(functional.relu(self.bn(self.conv1(x[:, half:]))))), 1)
        return x.reshape(b, 2, half, h, w).transpose(1, 2).reshape(b, -1, h, w)


class WrittenSlices(Shuffle):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, :6], self.conv2(functional.relu(self.bn(self.conv1(x[:, 6:]))))), 1)


class PaddedShortcut(nn.Module):
    """Option A by functional.pad with written numbers, as most CIFAR ResNets on the net have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(12, 9, 3, 2, 1), nn.BatchNorm2d(9)
        self.conv2, self.bn2 = nn.Conv2d(9, 16, 3, 1, 1), nn.BatchNorm2d(16)

    def shortcut(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class ConcatenatedShortcut(PaddedShortcut):
    def shortcut(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(x, 2)
        return torch.cat([x, torch.zeros_like(x[:, :4])], 1)


class DoubledShortcut(nn.Module):
    """Padding with as many zeros as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 24, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + torch.cat((x, x.mul(0)), 1))


class Twice(nn.Module):
    """A convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(functional.relu(self.conv(x))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(12, 12, 1, bias=False), nn.Conv2d(12, 12, 1, bias=False)
        self.conv2.weight = self.conv1.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(functional.relu(self.conv1(x)))


class BorrowedWeight(nn.Module):
    """A layer whose weight a function uses too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.relu(self.conv(x)), self.conv.weight)


class LearnedScale(nn.Module):
    """A scale per channel that no layer holds, and one for all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(12, 12, 1), nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) * self.scale


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > 0 else x


class Unused(nn.Module):
    """An operator in place whose result nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.add_(x)
        return y


class LastChannels(nn.Module):
    """Linear layers on the last axis, as in a transformer's block without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        return x + self.fc2(functional.gelu(self.fc1(self.norm(y)))).permute(0, 3, 1, 2)


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm with its activation, as timm has them."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "maps are needed")
        batch = self.training or self.running_mean is None
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch, 0.1, eps=self.eps
        )
        return self.act(self.drop(x))


class CenteredNorm(nn.BatchNorm2d):
    """A batch norm whose scale is one more than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, self.bias, eps=self.eps)


def deep_inside(layer: nn.Module) -> nn.Module:
    """A block of blocks with `layer` in the innermost, and convolutions around it at each level."""
    inner = nn.Sequential(nn.Conv2d(12, 12, 1), layer)
    return nn.Sequential(nn.Conv2d(12, 12, 1), nn.Sequential(inner, convs(nn.ReLU())), convs(nn.ReLU()))


class Attention(nn.Module):
    """torch's attention over the pixels, which uses the weights of its last layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return y.transpose(1, 2).reshape(x.shape)


def inverted(multiplier: int = 2) -> nn.Module:
    """A depthwise convolution with several filters a channel."""
    return nn.Sequential(nn.Conv2d(12, 12 * multiplier, 3, padding=1, groups=12), nn.BatchNorm2d(12 * multiplier))


def convs(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(12, 9, 1), *between, nn.Conv2d(9, 12, 1))


# by name: the network, and words of what cannot be followed in it (none: everything can)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "plain": (Net, ""),
    "written flatten": (WrittenFlatten, ""),
    "free flatten": (FreeFlatten, ""),
    "squeeze": (lambda: Net(Squeeze()), ""),
    "gate of all channels": (lambda: Net(SpatialAttention()), "body (mean)"),
    "one map": (lambda: Net(OneMapGate()), ""),
    "shuffle": (lambda: Net(Shuffle()), ""),
    "channel shuffle": (lambda: Net(nn.ChannelShuffle(3)), "body (ChannelShuffle)"),
    "written slices": (lambda: Net(WrittenSlices()), "body (getitem)"),
    "padded shortcut": (lambda: Net(PaddedShortcut(), out=16), "body (pad)"),
    "concatenated shortcut": (lambda: Net(ConcatenatedShortcut(), out=16), "body (getitem)"),
    "doubled shortcut": (lambda: Net(DoubledShortcut(), out=24), ""),
    "twice": (lambda: Net(Twice()), ""),
    "tied": (lambda: Net(Tied()), "body.conv1 (Conv2d)"),
    "borrowed": (lambda: Net(BorrowedWeight()), "body.conv (Conv2d)"),
    "scale of a channel": (lambda: Net(LearnedScale(12)), "body (mul)"),
    "scale of all": (lambda: Net(LearnedScale(1)), ""),
    "data dependent": (lambda: Net(DataDependent()), "body (DataDependent)"),
    "in place": (lambda: Net(Unused()), "body (add_)"),
    "last channels": (lambda: Net(LastChannels()), "body.norm (LayerNorm)"),
    "depthwise multiplier": (lambda: Net(inverted(), out=24), ""),
    "grouped": (lambda: Net(nn.Conv2d(12, 12, 3, padding=1, groups=3)), "body (Conv2d)"),
    "group norm": (lambda: Net(nn.GroupNorm(3, 12)), "body (GroupNorm)"),
    "sigmoid": (lambda: Net(convs(nn.Sigmoid())), "body.2 (reads"),
    "tanh": (lambda: Net(convs(nn.Tanh())), ""),
    "constant": (lambda: Net(convs(Function(lambda x: x + 1.0))), "body.2 (reads"),
    "norm without scale": (lambda: Net(convs(nn.BatchNorm2d(9, affine=False))), "body.2 (reads"),
    "prelu": (lambda: Net(convs(nn.PReLU(9))), "body.1 (PReLU)"),
    "weight norm": (
        lambda: Net(convs(nn.utils.parametrizations.weight_norm(nn.Conv2d(9, 9, 1)))),
        "body.1 (ParametrizedConv2d)",
    ),
    "norm and activation": (lambda: Net(convs(NormAndActivation(9, nn.ReLU()))), ""),
    "norm and sigmoid": (lambda: Net(convs(NormAndActivation(9, nn.Sigmoid()))), "body.2 (reads"),
    "another norm": (lambda: Net(convs(CenteredNorm(9))), "body.1 (batch_norm)"),
    "uneven padding": (lambda: Net(PaddedConv2d(12, 9, (3, 3), (0, 1, 1, 0), stride=2), out=9), ""),
    "uneven depthwise": (lambda: Net(PaddedConv2d(12, 12, (3, 3), (0, 1, 0, 1), stride=2, groups=12)), ""),
    "deep inside": (lambda: Net(deep_inside(DataDependent())), "body.1.0.1 (DataDependent)"),
    "attention": (lambda: Net(Attention()), "body.attention (MultiheadAttention)"),
    "transposed": (lambda: Net(nn.ConvTranspose2d(12, 12, 2, 2)), "body (ConvTranspose2d)"),
    "flipped": (lambda: Net(Function(lambda x: x.flip(1))), "(flip)"),
    "every second": (lambda: Net(Function(lambda x: x[:, ::2]), out=6), "(getitem)"),
    "softmax": (lambda: Net(Function(lambda x: x.softmax(1))), "(softmax)"),
    "divided by the width": (lambda: Net(Function(lambda x: x / x.size(1))), "(truediv)"),
    "sum of channels": (lambda: Net(Function(lambda x: x * x.sum(1, keepdim=True))), "(sum)"),
    "chunks": (lambda: Net(Function(lambda x: product(x.chunk(2, 1))), out=6), ""),
    "written split": (lambda: Net(Function(lambda x: product(x.split(6, 1))), out=6), "(split)"),
    "split in half": (lambda: Net(Function(lambda x: product(x.split(x.size(1) // 2, dim=1))), out=6), ""),
    "unequal chunks": (lambda: Net(Function(lambda x: torch.cat(x.chunk(5, 1)[:2], 1)), out=6), "(chunk)"),
    "stacked": (lambda: Net(Function(lambda x: torch.stack([x, x], 1).flatten(1, 2)), out=24), ""),
    "interpolated": (lambda: Net(Function(lambda x: functional.interpolate(x, scale_factor=2.0))), ""),
    "expanded": (lambda: Net(Function(lambda x: x.mean((2, 3), True).expand_as(x))), ""),
    "loop": (lambda: Net(Function(lambda x: torch.cat([x[:, i : i + 1] for i in range(12)], 1))), "(getitem)"),
    "matrix product": (lambda: Net(Function(lambda x: x @ x.transpose(2, 3))), "(matmul)"),
    "one layer of two names": (lambda: Net(nn.Sequential(*[nn.Conv2d(12, 12, 1)] * 2)), "body.0 (Conv2d)"),
}  # fmt: skip
