"""Fixtures every test may use."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# the networks here are tiny: one thread is as fast alone, and many times faster beside other processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("PAREDOWN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run one Ray at a time: under --dist loadgroup, one process gets all tests of the files that start a Ray.

    Marks cannot say it: xdist 3.8 appends their group to `_nodeid` of a test, which pytest 9.2 does not read.
    """
    from xdist.scheduler import LoadGroupScheduling

    class OneRay(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if starts_ray(nodeid.partition("::")[0]) else super()._split_scope(nodeid)

    return OneRay(config, log) if config.getvalue("dist") == "loadgroup" else None


@cache
def starts_ray(file: str) -> bool:
    """Return whether the tests of `file` (relative to the root) drive real sweeps or start Ray's nodes."""
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    return bool(re.search(r"^from (driving|nodes) import .*\b(Driver|Node)\b", text, re.MULTILINE))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real CIFAR-10 and Tiny-ImageNet parquet files (PAREDOWN_TEST_DATA); skips where it is absent."""
    if not (SHARED / "cifar10" / "train.parquet").is_file():
        pytest.skip(f"real images not found: {SHARED} (set PAREDOWN_TEST_DATA)")
    return SHARED


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """A command that runs in the tests' process sets the level of paredown's logger."""
    log = logging.getLogger("paredown")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Every address answers as if there were no network."""
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("urllib.request._opener", None)  # which keeps the proxies that it met first


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what tests have counted (`record_property("counts", ...)`), from other processes too."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for report in reports:
        for name, value in report.user_properties:
            if name == "counts":
                terminalreporter.write_line(value)
