"""Ctrl-C and SIGTERM at any moment: one line and exit code 130.

The entry scripts install this before they import anything else, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
DOUBLE_SECONDS = 1.0  # within which a second signal is the first one again: a launcher and a terminal send both


class _State:
    pid = 0  # of the process that installed the handler, not of its forks
    working = False
    said = False  # whether the line is printed
    first: float | None = None  # when the first signal came


def install() -> None:
    """Handle SIGINT, unless it is ignored as under nohup, and SIGTERM, a cluster's polite stop."""
    _State.pid = os.getpid()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)


@contextmanager
def working() -> Iterator[None]:
    """Raise KeyboardInterrupt for a signal inside the `with` block, which has something to close. Outside of it, where
    an import could swallow the exception, and for a second signal, the process ends at once."""
    before, _State.working = _State.working, True
    try:
        yield
    finally:
        _State.working = before


def interrupted() -> bool:
    """Return whether a signal came: what is raised after it may be another exception made of KeyboardInterrupt."""
    return _State.first is not None


def said() -> None:
    """Note that the line which says how this process ends is printed."""
    _State.said = True


def forget() -> None:
    """Take the next signal as the first one."""
    _State.first = None


def _on_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.pid:
        raise KeyboardInterrupt
    now, first = time.monotonic(), _State.first
    _State.first = now if first is None else first
    if _State.working and first is None:
        raise KeyboardInterrupt
    if _State.working and first is not None and now - first < DOUBLE_SECONDS:
        return
    if not _State.said and "TORCHELASTIC_RUN_ID" not in os.environ:  # who started the ranks says it
        os.write(2, b"paredown: interrupted; the same command goes on\n")
    os._exit(INTERRUPTED)
