"""Objects behind an fsspec URL: whole or not there, and one holder of a name, whoever dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest
from filelock import Timeout

from paredown import bucket as module
from paredown.bucket import create, open_bucket
from paredown.errors import UserError

HOLD = """
import sys, time
from paredown.bucket import open_bucket
with open_bucket(sys.argv[1]).hold("a"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    return f"memory://{uuid.uuid4().hex}/b" if request.param == "memory" else f"file://{tmp_path}/b"


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "EXPIRY", 0.4)
    monkeypatch.setattr(module, "PAUSE", 0.02)
    monkeypatch.setattr(module, "FRESH", 0.0)


def another(url):
    """As another process sees it."""
    return open_bucket.__wrapped__(url)


def test_an_object_comes_back_and_a_listing_names_it(url, tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    open_bucket(url).put(tmp_path / "x", "states/k.tar")
    other = another(url)
    assert other.names("states") == {"k.tar"} and other.names("nothing") == set()
    assert other.get("states/k.tar", tmp_path / "new" / "y") and (tmp_path / "new" / "y").read_bytes() == b"1234"
    assert not other.get("states/l.tar", tmp_path / "z") and not list(tmp_path.glob("*z*"))


def test_a_folder_is_pushed_and_pulled_but_for_what_is_a_machines_own(url, tmp_path) -> None:
    here, there = tmp_path / "here" / "e", tmp_path / "there" / "e"
    (here / "tracking").mkdir(parents=True)
    for name in ("result.json", "tracking/journal.jsonl", "tracking/sent-1.json", ".lock"):
        (here / name).write_text("1")
    one, other = open_bucket(url), another(url)
    one.push(here, "experiments/e")
    other.pull("experiments/e", there)
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*.*")) == ["result.json", "tracking/journal.jsonl"]
    (here / "tracking" / "journal.jsonl").write_text("123")
    one.push(here, "experiments/e")
    other.pull("experiments/e", there)
    assert (there / "tracking" / "journal.jsonl").read_text() == "123"


@pytest.mark.parametrize("name", ["tracking/journal.jsonl", "search.journal"])
def test_a_journal_that_grew_while_the_bucket_was_away_stays_and_is_pushed(url, tmp_path, name) -> None:
    here, there = tmp_path / "here" / "e", tmp_path / "there" / "e"
    (here / name).parent.mkdir(parents=True)
    (there / name).parent.mkdir(parents=True)
    for path, text in ((here / name, "123"), (here / "result.json", "ours"), (there / name, "1")):
        path.write_text(text)
    (there / "result.json").write_text("{}")
    one = open_bucket(url)
    one.push(here, "experiments/e")
    another(url).push(there, "experiments/e")  # what came last there is the older journal
    one.pull("experiments/e", here)
    assert (here / name).read_text() == "123" and (here / "result.json").read_text() == "{}"
    one.push(here, "experiments/e")
    another(url).pull("experiments/e", there)
    assert (there / name).read_text() == "123"


def test_one_of_many_holds_a_name(url, hasty) -> None:
    inside, most, together = [], [], 8

    def work() -> None:
        mine = another(url)
        with mine.hold("a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(together)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * together and not another(url).held("a")


def test_a_holder_that_lives_is_waited_for_and_one_without_a_sign_of_life_is_not(url, hasty) -> None:
    told, watcher = [], another(url)
    with open_bucket(url).hold("a"):
        time.sleep(0.6)  # longer than EXPIRY: it beats
        assert watcher.held("a") and not watcher.held("b")
        with pytest.raises(Timeout), watcher.hold("a", lambda: told.append(1), timeout=0.1):
            pass
    assert told == [1]
    create(watcher.fs, f"{watcher.root}/owners/a.7", b"elsewhere 1 x 0")
    assert watcher.held("a")
    with watcher.hold("a"):
        assert {name.rpartition("/")[2] for name in watcher._owners("a")} == {"a.7", "a.8"}
    assert watcher._owners("a") == []


def test_an_owner_that_is_seen_just_as_it_is_rewritten_is_no_dead_one(url) -> None:
    watcher = another(url)
    create(watcher.fs, f"{watcher.root}/owners/a.0", b"")
    assert watcher.held("a") and watcher.held("a")


def test_a_holder_of_this_machine_that_was_killed_is_known_to_be_dead_at_once(tmp_path) -> None:
    url = f"file://{tmp_path}/b"
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout and process.stdout.readline() == b"held\n"
    watcher = another(url)
    assert watcher.held("a")
    process.kill()
    process.wait()
    began = time.monotonic()
    with watcher.hold("a"):
        assert time.monotonic() - began < module.EXPIRY / 4


def test_a_holder_that_was_wrongly_given_up_does_not_free_its_successor(url) -> None:
    watcher, successor = another(url), another(url)
    with open_bucket(url).hold("a"):
        watcher.drop("somebody else")
        assert watcher.held("a")
        watcher.drop(module.ID)
        assert not watcher.held("a")
        second = successor.hold("a", timeout=0)
        second.__enter__()
    assert watcher.held("a") and [name[-3:] for name in watcher._owners("a")] == ["a.1"]
    second.__exit__(None, None, None)
    assert not watcher.held("a") and watcher._owners("a") == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sss://x/y", "no address: ValueError: Protocol not known: sss"),
        ("file:///proc/nothing/x", "cannot write to store=file:///proc"),
    ],
)
def test_what_cannot_be_a_store_is_one_line(url, message) -> None:
    with pytest.raises(UserError, match=message):
        open_bucket(url)
