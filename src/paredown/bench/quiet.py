"""Load of other processes on the machine while it is timed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

BUSY = 0.05  # cores used by other processes; above this, times are not reliable to 3 %
STEADY = 0.03  # largest relative spread of the rounds' speed-ups that counts as repeatable


@dataclass(frozen=True)
class Quiet:
    """`others`: average number of cores used by other processes (nan where unknown); `load`: load average at the start;
    `spread`: largest relative difference between the rounds' speed-ups."""

    others: float
    load: float
    spread: float

    @property
    def quiet(self) -> bool:
        """Whether the times are reliable to 3 %."""
        return not self.others > BUSY and self.spread <= STEADY

    def words(self) -> str:
        """Return a sentence for people."""
        found = f"other processes kept {self.others:.2f} cores busy, rounds differ by {self.spread:.1%}"
        if self.quiet:
            return f"quiet machine: {found}"
        return f"NOT a quiet machine ({found}): do not quote these times, run it again when nothing else runs"


class Watch:
    """Measures the CPU time used by other processes from its creation to `others()`."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self._start = self._now()

    def others(self) -> float:
        """Return the average number of cores used by other processes; nan where /proc is missing."""
        busy, this, clock = (after - before for after, before in zip(self._now(), self._start, strict=True))
        return max(0.0, busy - this) / max(clock, 1e-9)

    def _now(self) -> tuple[float, float, float]:
        used = os.times()
        return _busy(), used.user + used.system + used.children_user + used.children_system, time.perf_counter()


def _busy() -> float:
    """Return the CPU seconds of all cores since boot."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:  # not Linux
        return float("nan")
    user, nice, system, _, _, irq, soft, steal = map(int, first[:8])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
