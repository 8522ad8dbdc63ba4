"""How (g, p) fits one layer: clipping, and the input channels that no filter reads."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paredown.layers.ssc.pattern import support
from paredown.methods.sparse.ssc.layers import clip, dead_inputs


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 24), st.sampled_from([1, 3, 5]), st.integers(0, 20), st.integers(0, 20))
def test_dead_inputs_are_the_channels_no_filter_reads(inputs: int, outputs: int, size: int, g: int, p: int) -> None:
    g = 0 if size == 1 else min(g, inputs)
    p = max(p, 1) if g == 0 else p
    p = min(p, inputs - (inputs // g if g else 0))
    mask = support(inputs, outputs, size, g, p, kernel="full")
    assert dead_inputs(inputs, outputs, g, p) == int((~mask.any(0).flatten(1).any(1)).sum())


def test_clipping_keeps_a_narrow_layer_alive() -> None:
    assert tuple(map(int, clip(32, 32, 32))) == (32, 31)
    assert tuple(map(int, clip(64, 16, 8))) == (8, 7)
    assert tuple(map(int, clip(1, 5, 16))) == (1, 0)
    assert tuple(map(int, clip(0, 5, 3))) == (0, 3)
