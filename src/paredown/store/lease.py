"""Leases with a heartbeat, kept as objects: which process on which machine makes what."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from filelock import Timeout

from paredown.store.objects import OWNERS, ObjectStore, create

HEARTBEAT_SECONDS = 15.0
EXPIRY_SECONDS = 60.0  # without a heartbeat, by the observer's clock, until a lease expires
POLL_SECONDS = 1.0  # between two looks at a lease that another process holds
REVOKED = b"gone"  # replaces the heartbeat of a holder that is known to be dead; part of the stored format

log = logging.getLogger(__name__)


class Leases:
    """Leases on names, shared by all processes that use `objects`.

    A lease is the object `owners/NAME.NUMBER` of the highest number; its content is the holder's last heartbeat. Leases
    only save work: if a network partition lets two processes hold the same one, both make the same object, and either
    result is valid.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._heartbeats: dict[str, tuple[bytes | None, float]] = {}  # of other holders: content, and when it changed

    @contextmanager
    def lease(self, name: str, on_wait: Callable[[], None] | None = None, timeout: float = -1) -> Iterator[None]:
        """Hold the lease on `name` inside the `with` block. Call `on_wait()` once if another process holds it; raise
        filelock.Timeout after `timeout` seconds of waiting (negative: never)."""
        owner, stop = self._acquire(name, on_wait, timeout), threading.Event()
        thread = threading.Thread(target=self._send_heartbeats, args=(owner, stop), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for old in self._owners(name):
                if _number(old) <= _number(owner):
                    self._remove(old)

    def is_leased(self, name: str) -> bool:
        """Return whether a process holds the lease on `name`, as far as this process has observed."""
        if not any(other.startswith(f"{name}.") for other in self.objects.names(OWNERS)):
            return False
        owners = self._owners(name)
        return bool(owners) and not self._is_expired(owners[-1])

    def revoke(self, holder: str) -> None:
        """Revoke all leases of `holder` (see `set_holder`), a process that is known to be dead. Their numbers stay in
        use: the process may still run beyond a network partition."""
        for name in self.objects.names(OWNERS, fresh=True):
            owner = f"{self.objects.root}/{OWNERS}/{name}"
            try:
                if holder.encode() in self.objects.fs.cat_file(owner).split():
                    self.objects.fs.pipe_file(owner, REVOKED)
            except FileNotFoundError:
                continue  # released in the meantime

    def _acquire(self, name: str, on_wait: Callable[[], None] | None, timeout: float) -> str:
        deadline = time.monotonic() + timeout if timeout >= 0 else float("inf")
        while True:
            owners = self._owners(name)
            if not owners or self._is_expired(owners[-1]):
                number = _number(owners[-1]) + 1 if owners else 0
                if owner := self._try_acquire(name, number, owners):
                    return owner
                continue
            if time.monotonic() > deadline:
                raise Timeout(name)
            if on_wait:
                on_wait()
                on_wait = None
            time.sleep(POLL_SECONDS)

    def _try_acquire(self, name: str, number: int, expired: list[str]) -> str | None:
        """Create the owner object `number` of `name`; return None if another process created it first, or if the
        expired lease was released meanwhile."""
        owner = f"{self.objects.root}/{OWNERS}/{name}.{number}"
        if not create(self.objects.fs, owner, _heartbeat(0)):
            return None
        if expired and not self._is_expired(expired[-1]):
            self._remove(owner)
            return None
        return owner

    def _owners(self, name: str) -> list[str]:
        listed = self.objects.names(OWNERS, fresh=True)
        numbers = [_number(other) for other in listed if other.rpartition(".")[0] == name and _numbered(other)]
        return [f"{self.objects.root}/{OWNERS}/{name}.{number}" for number in sorted(numbers)]

    def _is_expired(self, owner: str) -> bool:
        try:
            content = self.objects.fs.cat_file(owner)
        except FileNotFoundError:
            return False  # released just now: the caller lists the owners again
        if content == REVOKED:
            return True
        # no words while a local folder's owner file is being created or rewritten
        words = content.decode(errors="replace").split()
        if words[:1] == [MACHINE] and len(words) > 1 and not Path(f"/proc/{words[1]}").exists():
            return True
        last, changed_at = self._heartbeats.get(owner, (None, 0.0))
        if content != last:
            self._heartbeats[owner] = (content, time.monotonic())
            return False
        return time.monotonic() - changed_at > EXPIRY_SECONDS

    def _send_heartbeats(self, owner: str, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(HEARTBEAT_SECONDS):
            count += 1
            try:
                self.objects.fs.pipe_file(owner, _heartbeat(count))
            except OSError as error:  # the next heartbeat may succeed
                log.warning("heartbeat of %s was not written: %s", owner, error)

    def _remove(self, owner: str) -> None:
        try:
            self.objects.fs.rm_file(owner)
        except FileNotFoundError:
            log.debug("%s was already removed", owner)


@lru_cache
def leases_of(objects: ObjectStore) -> Leases:
    """Return the leases on `objects`, one instance per process: expiry is judged by the heartbeats it has seen."""
    return Leases(objects)


def set_holder(holder: str) -> None:
    """Hold all leases of this process as `holder` from now on, so that whoever started it can revoke them."""
    global HOLDER  # noqa: PLW0603 (per process, like its pid)
    HOLDER = holder


def _heartbeat(count: int) -> bytes:
    return f"{MACHINE} {os.getpid()} {HOLDER} {count}".encode()


def _machine() -> str:
    """Return an id that is equal in all processes that can see each other's pids."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: only heartbeats can tell
        return uuid.uuid4().hex


def _numbered(owner: str) -> bool:
    """Tell whether an object's name is one that `_acquire` gives: others may lie in the same folder."""
    return re.fullmatch(r"[0-9]{1,18}", owner.rpartition(".")[2]) is not None


def _number(owner: str) -> int:
    return int(owner.rpartition(".")[2])


HOLDER, MACHINE = uuid.uuid4().hex, _machine()
