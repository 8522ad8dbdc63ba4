"""Class-stratified splits and samples of a data set, nested and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError

Indices = NDArray[np.int64]


def split(
    labels: Indices, validation: float, fraction: float, seed: int, setting: str = "dataset.validation"
) -> tuple[Indices, Indices]:
    """Return the positions in `labels` (n,) of the training images and of the held-out ones, each sorted.

    `validation` is a count (int) or a fraction (float below 1) of all images. `fraction` in (0, 1] keeps that part of
    the other images, class by class and nested: a smaller fraction is a subset of a larger one. Raise UserError with
    the name of the `setting` that `validation` is of where a class would have no training image.
    """
    held_out = _per_class(labels, validation, setting)
    train, chosen = [], []
    # RandomState, because numpy promises its streams never change
    shuffle = np.random.RandomState(seed)
    for label, held in held_out.items():
        members = shuffle.permutation(np.flatnonzero(labels == label))
        if held >= len(members):
            raise UserError(
                f"{setting}={validation:g} holds out all {len(members)} training images of class {label}: choose "
                "less, or give it more images"
            )
        kept = max(1, round(fraction * (len(members) - held)))
        chosen.append(members[:held])
        train.append(members[held : held + kept])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(chosen))


def _per_class(labels: Indices, amount: float, setting: str) -> dict[int, int]:
    """Share `amount` images among the classes, in proportion to their sizes, by largest remainder."""
    classes, counts = np.unique(labels, return_counts=True)
    total = amount if isinstance(amount, int) else round(amount * len(labels))
    if total > len(labels):
        raise UserError(f"{setting}={amount:g} is more than the {len(labels)} training images there are")
    shares = counts * total / len(labels)
    held = np.floor(shares).astype(int)
    order = np.argsort(held - shares, kind="stable")
    held[order[: total - held.sum()]] += 1
    return dict(zip(classes.tolist(), held.tolist(), strict=True))


def sample_per_class(labels: Indices, class_names: Sequence[str], per_class: int, seed: int) -> Indices:
    """Return the positions in `labels` (n,) of `per_class` random images of each class, sorted by class.

    `seed` fixes a permutation of each class, of which these are the first: a smaller sample is a subset of a larger
    one. Raise UserError naming a class that has fewer.
    """
    shuffle = np.random.RandomState(seed)
    members = [shuffle.permutation(np.flatnonzero(labels == label)) for label in range(len(class_names))]
    for name, positions in zip(class_names, members, strict=True):
        if len(positions) < per_class:
            raise UserError(f"cannot take {per_class} images of every class: class {name!r} has {len(positions)}")
    return np.concatenate([positions[:per_class] for positions in members])
