"""A check of the Triton kernel against torch in float64: python -m paredown.runtime.gathered_check [cuda | cpu]

On the CPU it needs TRITON_INTERPRET=1. It ends with exit code 1 and a line where any case differs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from paredown.core.deploy import relative_difference
from paredown.runtime.gathered import DTYPES, GatheredConv2d

# of the largest output: inputs are rounded to the precision first, so that the sums and the output's rounding are left
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    """A convolution of `inputs` (B, M, H, W) with `filters`, whose weights have one pattern for all filters that are
    equal modulo `period`; 0 of `period` leaves every filter a pattern of its own."""

    inputs: tuple[int, int, int, int]
    filters: int
    period: int
    kernel: int = 3
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case((2, 16, 8, 8), 16, 4, settings={"padding": 1}),
    Case((1, 33, 7, 5), 21, 2, settings={"padding": 1, "stride": 2}),  # odd maps, tails in all three dimensions
    Case(
        (3, 8, 9, 6), 150, 2, settings={"padding": (2, 0), "dilation": (2, 1), "bias": False}
    ),  # several tiles a class
    Case((1, 16, 5, 5), 8, 4, 1, {"stride": (1, 3)}),
    Case((2, 8, 6, 6), 12, 3, settings={"groups": 4}),
    Case((2, 4, 3, 3), 5, 0, 5, {"padding": 4}),  # taps outside on all sides
    Case((1, 64, 1, 1), 70, 1, settings={"padding": 1}),
    Case((0, 8, 6, 6), 8, 2, settings={"padding": 1}),
)


def layer(case: Case) -> nn.Conv2d:
    """Make the convolution of `case` with half of its weights zero; the last filter has none left."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(case.inputs[1], case.filters, case.kernel, **case.settings).requires_grad_(False)
    conv.weight.normal_(generator=generator)
    patterns = torch.rand(case.period or case.filters, *conv.weight.shape[1:], generator=generator) < 0.5
    conv.weight *= patterns[torch.arange(case.filters) % len(patterns)]
    if case.filters > 1:
        conv.weight[-1] = 0
    return conv


def difference(case: Case, dtype: torch.dtype, device: str, channels_last: bool) -> float:
    """Return the largest difference of the kernel's outputs from torch's in float64, of the largest output."""
    conv = layer(case).to(dtype)
    x = torch.randn(case.inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = conv.double()(x.double())
    gathered = GatheredConv2d(conv.to(dtype)).to(device)
    x = x.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    found = gathered.by_kernel(x).cpu().double()
    if found.shape != exact.shape:
        return float("inf")
    return relative_difference(exact, found) if exact.numel() else 0.0


def main() -> int:
    """Check every case in every precision and layout."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
    for dtype in DTYPES:
        for case in CASES:
            for channels_last in (False, True):
                found = difference(case, dtype, device, channels_last)
                if not found <= TOLERANCE[dtype]:
                    print(f"{case} in {dtype} differs by {found:.1e} of the largest output", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
