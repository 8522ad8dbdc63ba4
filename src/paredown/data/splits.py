"""Which images train and which choose: class-stratified, nested, and the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paredown.errors import UserError

Indices = NDArray[np.int64]


def split(labels: Indices, validation: float, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Positions in `labels` (n,) of the images that train and of those held out, each sorted.

    `validation` is a count (int) or a fraction (float below 1) of all images. `fraction` in (0, 1] keeps
    that part of what is left, class by class and nested: the images of a smaller fraction are among those
    of a larger one. Raises UserError where a class would be left without a training image.
    """
    held_out = _per_class(labels, validation)
    train, chosen = [], []
    # RandomState, because numpy promises its streams never change
    shuffle = np.random.RandomState(seed)
    for label, held in held_out.items():
        members = shuffle.permutation(np.flatnonzero(labels == label))
        if held >= len(members):
            raise UserError(
                f"dataset.validation={validation:g} holds out all {len(members)} training images of "
                f"class {label}: choose less"
            )
        kept = max(1, round(fraction * (len(members) - held)))
        chosen.append(members[:held])
        train.append(members[held : held + kept])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(chosen))


def _per_class(labels: Indices, amount: float) -> dict[int, int]:
    """How many images of each class make `amount` in all: shares by largest remainder."""
    classes, counts = np.unique(labels, return_counts=True)
    total = amount if isinstance(amount, int) else round(amount * len(labels))
    if total > len(labels):
        raise UserError(f"dataset.validation={amount:g} is more than the {len(labels)} training images there are")
    shares = counts * total / len(labels)
    held = np.floor(shares).astype(int)
    order = np.argsort(held - shares, kind="stable")
    held[order[: total - held.sum()]] += 1
    return dict(zip(classes.tolist(), held.tolist(), strict=True))
