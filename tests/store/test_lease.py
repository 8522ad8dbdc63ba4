"""Leases on an object store: one holder of a name, released when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import Timeout

from paredown.store import lease as module
from paredown.store.lease import Leases
from paredown.store.objects import create, open_objects

HOLD = """
import sys, time
from paredown.store.lease import Leases
from paredown.store.objects import open_objects
with Leases(open_objects(sys.argv[1])).lease("a"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "EXPIRY_SECONDS", 0.4)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr("paredown.store.objects.LISTING_SECONDS", 0.0)


def process(url: str) -> Leases:
    """Return the leases at `url` as another process sees them."""
    return Leases(open_objects.__wrapped__(url))


def test_one_of_many_holds_a_lease(url, hasty) -> None:
    inside, most, together = [], [], 8

    def work() -> None:
        mine = process(url)
        with mine.lease("a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(together)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * together and not process(url).is_leased("a")


def test_a_lease_is_waited_for_while_its_heartbeat_changes(url, hasty) -> None:
    waits, watcher = [], process(url)
    with process(url).lease("a"):
        time.sleep(0.6)  # longer than EXPIRY_SECONDS: its heartbeats count
        assert watcher.is_leased("a") and not watcher.is_leased("b")
        with pytest.raises(Timeout), watcher.lease("a", lambda: waits.append(1), timeout=0.1):
            pass
    assert waits == [1]
    create(watcher.objects.fs, f"{watcher.objects.root}/owners/a.7", b"elsewhere 1 x 0")
    assert watcher.is_leased("a")
    with watcher.lease("a"):
        assert {name.rpartition("/")[2] for name in watcher._owners("a")} == {"a.7", "a.8"}
    assert watcher._owners("a") == []


def test_a_heartbeat_read_while_it_is_rewritten_is_not_expired(url) -> None:
    watcher = process(url)
    create(watcher.objects.fs, f"{watcher.objects.root}/owners/a.0", b"")
    assert watcher.is_leased("a") and watcher.is_leased("a")


def test_the_lease_of_a_killed_process_of_this_machine_expires_at_once(tmp_path) -> None:
    url = f"file://{tmp_path}/b"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, env=os.environ)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    watcher = process(url)
    assert watcher.is_leased("a")
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with watcher.lease("a"):
        assert time.monotonic() - began < module.EXPIRY_SECONDS / 4


def test_a_holder_whose_lease_was_wrongly_revoked_does_not_release_its_successors(url) -> None:
    watcher, successor = process(url), process(url)
    with process(url).lease("a"):
        watcher.revoke("somebody else")
        assert watcher.is_leased("a")
        watcher.revoke(module.HOLDER)
        assert not watcher.is_leased("a")
        second = successor.lease("a", timeout=0)
        second.__enter__()
    assert watcher.is_leased("a") and [name[-3:] for name in watcher._owners("a")] == ["a.1"]
    second.__exit__(None, None, None)
    assert not watcher.is_leased("a") and watcher._owners("a") == []


def test_the_stored_format_of_a_lease(tmp_path) -> None:
    with process(f"file://{tmp_path}/b").lease("experiments-e"):
        (owner,) = (tmp_path / "b" / "owners").iterdir()
        assert owner.name == "experiments-e.0"
        assert owner.read_text() == f"{module.MACHINE} {os.getpid()} {module.HOLDER} 0"
        process(f"file://{tmp_path}/b").revoke(module.HOLDER)
        assert owner.read_text() == "gone"
    assert not list((tmp_path / "b" / "owners").iterdir())
