"""Data small enough to train on in a second."""

from __future__ import annotations

import pytest

from paredown.data.datasets.digits import Digits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    cache = str(tmp_path_factory.mktemp("cache"))
    digits = Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.2, cache=cache, augment={"crop": 1})
    digits.prepare()
    return digits
