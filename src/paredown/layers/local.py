"""A locally connected layer: a convolution with a separate kernel at every output position."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.compressed import CompressedLayer


class LocallyConnected2d(CompressedLayer):
    """A layer from (B, C, H, W) of one fixed `size` (H, W) to (B, F, H', W'), without a bias.

    `weight` is (H' W', C k k, F): one matrix product per position. Taps on the padding are dead: they start at zero,
    get no gradient and are not counted. `live` (H' W', C k k, 1) is true for the others.
    """

    live: Tensor
    weight: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.size = in_channels, out_channels, (size[0], size[1])
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.output_size = tuple((side + 2 * padding - kernel_size) // stride + 1 for side in size)
        taps = in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.empty(math.prod(self.output_size), taps, out_channels))
        seen = self._patches(torch.ones(1, in_channels, *self.size))[0].flatten(2).flatten(0, 1)
        self.register_buffer("live", seen[..., None] > 0, persistent=False)  # (positions, taps, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as torch does a convolution: uniform up to 1 / sqrt(fan-in); dead taps are 0."""
        nn.init.uniform_(self.weight, -(bound := self.weight.shape[1] ** -0.5), bound)
        with torch.no_grad():
            self.weight.masked_fill_(~self.live, 0.0)

    def effective_weight(self) -> Tensor:
        """Return the weight with dead taps set to zero."""
        return self.weight * self.live

    def filters(self, units: Tensor) -> Tensor:
        """Return the weights of output `units` (n,), numbered as in the flattened map (F, H', W'), over the
        whole input: (n, C, H, W), zero outside the receptive field. All units are the matrix of the fully
        connected form."""
        positions, taps, _ = self.weight.shape
        feature, position = units // positions, units % positions
        patches = self.weight.new_zeros(len(units), taps, positions)
        patches[torch.arange(len(units)), :, position] = self.effective_weight().detach()[position, :, feature]
        return functional.fold(patches, self.size, self.kernel_size, padding=self.padding, stride=self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, F, H', W')."""
        patches = self._patches(x).permute(1, 2, 0, 3, 4, 5).flatten(3).flatten(0, 1)  # (positions, B, taps): one copy
        return torch.bmm(patches, self.used_weight()).permute(1, 2, 0).unflatten(2, self.output_size)

    def used_weight(self) -> Tensor:
        """Return the weight that `forward` uses: dead taps are not masked, since their inputs are zero."""
        return self.weight

    def active_weights(self) -> int:
        """Count the weights on live taps."""
        return int(self.live.sum()) * self.out_channels

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Count one multiply-add per weight: each is used at one position."""
        return self.active_weights()

    def deployed(self) -> nn.Sequential:
        """Return plain modules: patches, and a grouped 1 x 1 convolution with one group per position."""
        positions, taps, outputs = self.weight.shape
        conv = nn.Conv2d(positions * taps, positions * outputs, 1, groups=positions, bias=False, device="meta")
        conv.weight = nn.Parameter(self.effective_weight().detach().transpose(1, 2).reshape(-1, taps, 1, 1).clone())
        groups = _ToGroups(self.kernel_size, self.stride, self.padding)
        return nn.Sequential(groups, conv, _ToMaps(outputs, self.output_size)).train(self.training)

    def _patches(self, x: Tensor) -> Tensor:
        return patches(x, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, size={self.size}, kernel_size={self.kernel_size}"
        return f"{shape}, stride={self.stride}, padding={self.padding}"


def patches(x: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
    """Return the patches (B, H', W', C, k, k) of x (B, C, H, W) as a view of the padded maps; `functional.unfold`
    copies, which takes several times as long."""
    padded = functional.pad(x, (padding,) * 4)
    return padded.unfold(2, kernel_size, stride).unfold(3, kernel_size, stride).permute(0, 2, 3, 1, 4, 5)


class _ToGroups(nn.Module):
    """Rearranges (B, C, H, W) into the taps of each position, as channels (B, positions * taps, 1, 1)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return patches(x, *self.shape).flatten(1)[..., None, None]


class _ToMaps(nn.Module):
    """Rearranges channels (B, positions * F, 1, 1) into maps (B, F, H', W')."""

    def __init__(self, channels: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = channels, size

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.channels).transpose(1, 2).unflatten(2, self.size)
