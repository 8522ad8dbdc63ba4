"""Whether the machine did anything else while it was timed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

BUSY = 0.05  # of one core, by other processes: from here on times are not to be trusted to 3 %
STEADY = 0.03  # the largest spread of the rounds' speed-ups that counts as repeatable


@dataclass(frozen=True)
class Quiet:
    """`others`: cores that other processes kept busy meanwhile (nan where the system does not tell); `load`: the load
    average at the start; `spread`: the largest difference between the rounds' speed-ups, as a share."""

    others: float
    load: float
    spread: float

    @property
    def quiet(self) -> bool:
        """Whether the times hold to 3 %."""
        return not self.others > BUSY and self.spread <= STEADY

    def words(self) -> str:
        """What to say of it."""
        found = f"other processes kept {self.others:.2f} cores busy, rounds differ by {self.spread:.1%}"
        if self.quiet:
            return f"quiet machine: {found}"
        return f"NOT a quiet machine ({found}): do not quote these times, run it again when nothing else runs"


class Watch:
    """Counts what others compute from its making to `others()`."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self._start = self._now()

    def others(self) -> float:
        """Cores that processes other than this one kept busy on average; nan where /proc is missing."""
        busy, own, clock = (after - before for after, before in zip(self._now(), self._start, strict=True))
        return max(0.0, busy - own) / max(clock, 1e-9)

    def _now(self) -> tuple[float, float, float]:
        used = os.times()
        return _busy(), used.user + used.system + used.children_user + used.children_system, time.perf_counter()


def _busy() -> float:
    """Seconds that all cores have been busy since the system started."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:  # not Linux
        return float("nan")
    user, nice, system, _, _, irq, soft, steal = map(int, first[:8])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
