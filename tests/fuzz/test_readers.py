"""Every reader of a file, on thousands of damaged and hostile ones: a value or a UserError, soon, and nothing else."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mutations
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from samples import Sample, samples

from paredown.core.errors import UserError

INPUTS, FEW = 10_500, 300
SECONDS, LONGEST, GROWTH = 5.0, 60.0, 500 * 2**20
# what a reader never does; `open` for writing is left out, because the readers of caches write
FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn"}


@dataclass
class Counts:
    """What happened: the outcome of every input, and the first of every kind that may not be."""

    inputs: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    longest: float = 0.0
    largest: int = 0

    def note(self, kind: str, what: str) -> None:
        self.wrong[kind] += 1
        if self.wrong[kind] <= 10:
            self.shown.append(f"{kind}: {what}")

    def __str__(self) -> str:
        refused, total = self.inputs["refused"], self.inputs.total()
        names = ("tracebacks", "executions", "hangs over 5 s", "growths over 500 MB")
        counted = ", ".join(f"{self.wrong[name]} {name}" for name in names)
        worst = f"slowest {self.longest:.1f} s, largest growth {self.largest / 2**20:.0f} MB"
        return f"fuzz: {total:,} inputs to every reader, {refused:,} refused: {counted} ({worst})"


EVENTS: list[str] | None = None


def _watch(event: str, arguments: Any) -> None:
    if EVENTS is not None and event in FORBIDDEN:
        EVENTS.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_watch)


@contextmanager
def executing() -> Iterator[list[str]]:
    global EVENTS  # noqa: PLW0603 (an audit hook cannot be removed)
    EVENTS = []
    try:
        yield EVENTS
    finally:
        EVENTS = None


def memory() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak(reset: bool = False) -> int:
    """Return the most bytes that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def attack(name: str, sample: Sample, place: Path, counts: Counts, seed: int) -> None:
    """Read one damaged copy of `sample` and count what happens."""
    rng = random.Random(seed)
    whole = (sample.folder / sample.file).read_bytes()
    content = rng.choice(sample.kinds)(whole, rng)
    file = place / sample.file
    file.unlink(missing_ok=True)  # a cached tensor may still be mapped from it
    file.write_bytes(content)
    before, started, processor = memory(), time.monotonic(), time.process_time()
    peak(reset=True)
    with executing() as events, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = read(sample, place, counts, f"{name}, seed {seed}")
    counts.inputs[outcome] += 1
    taken = time.process_time() - processor  # other processes share the processors of a test machine
    grown = peak() - before
    counts.longest, counts.largest = max(counts.longest, taken), max(counts.largest, grown)
    if events or mutations.CANARY.exists():
        counts.note("executions", f"{name}, seed {seed}: {events}")
        mutations.CANARY.unlink(missing_ok=True)
    if taken > SECONDS or time.monotonic() - started > LONGEST:
        counts.note("hangs over 5 s", f"{name}, seed {seed}: {taken:.1f} s")
    if grown > GROWTH:
        counts.note("growths over 500 MB", f"{name}, seed {seed}: {grown / 2**20:.0f} MB")
    file.unlink(missing_ok=True)
    file.write_bytes(whole)


def read(sample: Sample, place: Path, counts: Counts, what: str) -> str:
    try:
        sample.read(place)
    except UserError as error:
        named = str(place) in str(error) or str(error).startswith(f"sweep {Path(sample.file).stem}: ")
        if not named or not str(error).isprintable():
            counts.note("tracebacks", f"{what}: not one line that names the file: {str(error)[:300]!r}")
        return "refused"
    except BaseException as error:  # of a library in Rust, a panic is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        counts.note("tracebacks", f"{what}: {type(error).__name__}: {str(error)[:300]}")
        return "escaped"
    return "read"


def fuzz(root: Path, total: int) -> Counts:
    """Read `total` damaged files in all, of each format its share."""
    (root / "whole").mkdir()
    made = samples(root / "whole")
    mutations.CANARY = root / "canary"
    counts, weights = Counts(), sum(sample.weight for sample in made.values())
    for name, sample in made.items():
        place = root / "copies" / sample.folder.name
        if not place.exists():
            shutil.copytree(sample.folder, place)
        sample.read(place)  # whole, it is read; what it imports is imported
        share = max(1, round(total * sample.weight / weights))
        _repeat(partial(attack, name, sample, place, counts), share)
    return counts


def _repeat(attempt: Callable[[int], None], times: int) -> None:
    """Call `attempt` with as many seeds, the same every time."""

    @settings(
        max_examples=times,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**64))
    def attempts(seed: int) -> None:
        attempt(seed)

    attempts()


@pytest.mark.parametrize(
    "total", [pytest.param(FEW, id="few"), pytest.param(INPUTS, id="thousands", marks=pytest.mark.slow)]
)
def test_damage_is_one_line_everywhere(total: int, tmp_path: Path, record_property: Any, monkeypatch: Any) -> None:
    (tmp_path / "bin").mkdir()
    (ghostscript := tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    counts = fuzz(tmp_path, total)
    record_property("counts", str(counts))
    assert not counts.wrong, "\n".join([str(counts), *counts.shown])
    assert counts.inputs.total() >= total * 0.95 and counts.inputs["refused"] > total / 3
