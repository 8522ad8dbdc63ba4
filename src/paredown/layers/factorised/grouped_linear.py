"""A linear layer in groups of its features, for which torch has none."""

from __future__ import annotations

from torch import Tensor, nn


class GroupedLinear(nn.Conv2d):
    """A 1 x 1 convolution in `groups` without a bias, on features along the last dimension instead of on maps."""

    def __init__(self, inputs: int, outputs: int, groups: int, device: str | None = None) -> None:
        super().__init__(inputs, outputs, 1, groups=groups, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., c) to (..., n), whatever dimensions are in front."""
        rows = super().forward(x.reshape(-1, self.in_channels, 1, 1))
        return rows.reshape(x.shape[:-1] + (self.out_channels,))  # noqa: RUF005, torch.fx cannot unpack a shape
