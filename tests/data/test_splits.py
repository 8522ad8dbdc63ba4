"""Splits are stratified, disjoint, nested and fixed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paredown.core.errors import UserError
from paredown.data.splits import split

LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(10), 100))


def test_fractions_are_nested_and_every_class_keeps_its_share():
    parts = [set(split(LABELS, 0.1, fraction, seed=0)[0].tolist()) for fraction in (0.2, 0.4, 0.5, 1.0)]
    assert [len(part) for part in parts] == [180, 360, 450, 900]
    for small, large in pairwise(parts):
        assert small < large
    assert np.bincount(LABELS[sorted(parts[0])]).tolist() == [18] * 10


def test_the_validation_split_does_not_depend_on_the_fraction():
    assert np.array_equal(split(LABELS, 0.1, 0.2, seed=0)[1], split(LABELS, 0.1, 1.0, seed=0)[1])


def test_the_seed_chooses_and_the_choice_never_changes():
    train, held_out = split(LABELS, 30, 1.0, seed=0)
    assert np.array_equal(train, split(LABELS, 30, 1.0, seed=0)[0])
    assert not np.array_equal(train, split(LABELS, 30, 1.0, seed=1)[0])
    assert held_out[:5].tolist() == [18, 28, 30, 45, 79]  # written down: states of old runs depend on it


@given(
    counts=st.lists(st.integers(4, 40), min_size=2, max_size=6),
    validation=st.one_of(st.integers(0, 6), st.floats(0, 0.5)),  # 7 of two classes of 4 leave one without any
    fraction=st.floats(0.01, 1),
)
def test_any_split_is_disjoint_exact_and_fair(counts, validation, fraction):
    labels = np.repeat(np.arange(len(counts)), counts)
    train, held_out = split(labels, validation, fraction, seed=1)
    expected = validation if isinstance(validation, int) else round(validation * len(labels))
    assert len(held_out) == expected
    assert not set(train) & set(held_out)
    kept, held = (np.bincount(labels[part], minlength=len(counts)) for part in (train, held_out))
    assert (kept >= 1).all()
    assert (np.abs(held - np.array(counts) * expected / len(labels)) < 1).all()
    assert (np.abs(kept - (counts - held) * fraction) <= 1).all()


@pytest.mark.parametrize(
    ("validation", "message"), [(1001, "more than the 1000"), (1000, "class 0"), (995, "holds out all")]
)
def test_too_much_validation_is_refused(validation, message):
    with pytest.raises(UserError, match=message):
        split(LABELS, validation, 1.0, seed=0)
