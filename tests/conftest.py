"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# the networks here are tiny: one thread is as fast alone, and many times faster beside other processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("PAREDOWN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real CIFAR-10 and Tiny-ImageNet parquet files (PAREDOWN_TEST_DATA); skips where it is absent."""
    if not (SHARED / "cifar10" / "train.parquet").is_file():
        pytest.skip(f"real images not found: {SHARED} (set PAREDOWN_TEST_DATA)")
    return SHARED
