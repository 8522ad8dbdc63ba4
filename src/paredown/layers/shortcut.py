"""Parameter-free layers that the tracer records as one call, such as the option A shortcut of CIFAR ResNets."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LeafModule(nn.Module):
    """Base class of parameter-free modules that `graph.trace` does not enter.

    `forward` takes maps (B, C, H, W) and also maps with trailing dimensions (B, C, H, W, ...), which it leaves alone:
    the runtime's CPU kernel stores the images of a block in a fifth dimension.
    """


class SubsampleAndPad(LeafModule):
    """Option A shortcut of He et al. 2015: every `stride`-th pixel, with `extra` channels of zeros appended."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W, ...) to (B, C + extra, ceil(H / stride), ceil(W / stride), ...)."""
        untouched = (0, 0) * (x.dim() - 2)  # `pad` lists dimensions from the last to the second
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (*untouched, 0, self.extra))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra={self.extra}"
