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


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Every address answers as if there were no network."""
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("urllib.request._opener", None)  # which keeps the proxies that it met first
