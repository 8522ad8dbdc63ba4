"""scikit-learn's handwritten digits of 8x8 pixels, which need no download."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from paredown.data.cache import Decoded, Pixels, decoded
from paredown.data.images import Contents, ImageData
from paredown.data.splits import split

TEST = 0.2  # of the images of every class; always the same ones


class Digits(ImageData):
    """1,797 digits, 1 x 8 x 8 (E. Alpaydin and C. Kaynak, UCI, 1998); a fixed fifth of each class is the test split."""

    def open(self) -> Contents:
        """Read the images from scikit-learn, or from the cache without importing it."""
        return self.cached(version("scikit-learn"), _decode)


def _decode() -> Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = split(labels, TEST, 1.0, seed=0)
    return decoded(
        [str(name) for name in digits.target_names],
        Pixels(images[train], labels[train]),
        Pixels(images[test], labels[test]),
    )
