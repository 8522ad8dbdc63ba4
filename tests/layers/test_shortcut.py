"""The option A shortcut against an elementwise definition, on maps and on maps with trailing dimensions."""

from __future__ import annotations

import pytest
import torch

from paredown.layers.shortcut import SubsampleAndPad


@pytest.mark.parametrize("trailing", [(), (16,)])
def test_option_a_keeps_every_second_pixel_and_adds_zero_channels(trailing: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 6, *trailing)
    y = SubsampleAndPad(2, 3)(x)
    assert y.shape == (2, 6, 2, 3, *trailing)
    for i in range(2):
        for j in range(3):
            assert torch.equal(y[:, :3, i, j], x[:, :, 2 * i, 2 * j])
    assert not y[:, 3:].any()
