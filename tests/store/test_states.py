"""States by key: complete or absent, shared by processes."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.store.states import Record, Store, open_store

ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
KEY = "ab" + "0" * 18
HOLD = """
import pathlib, time
from paredown.store.states import Store
with Store(pathlib.Path({root!r})).lock("abc"):
    print("held", flush=True)
    time.sleep(60)
"""
RECORD = Record("abc", "root", {"is": "Fit"}, 0, "data", 1.5, [{"train/loss": 0.1}])


def test_a_state_comes_back_equal(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    assert not store.has("abc")
    store.put(network, RECORD)
    assert store.has("abc") and store.record("abc") == RECORD
    back = blueprint.read(store.folder("abc"))
    assert back.architecture == ARCHITECTURE and back.input_shape == (1, 8, 8)
    own = network.module.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in back.module.state_dict().items())
    assert not store.folder("abc").with_name("abc.unfinished").exists()


def test_half_a_state_is_no_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.scratch_folder("abc") / "state").mkdir()
    assert not store.has("abc")
    store.put(blueprint.create(ARCHITECTURE, (1, 8, 8)), RECORD)
    assert store.has("abc")


def test_a_lock_is_freed_by_its_holders_death(tmp_path: Path) -> None:
    code = HOLD.format(root=str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    waited: list[float] = []

    def kill() -> None:
        waited.append(time.monotonic())
        holder.kill()

    with Store(tmp_path).lock("abc", on_wait=kill):
        assert waited
    holder.wait()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to output folder .*output=FOLDER"):
        open_store(tmp_path / "file" / "store")


def in_bucket(tmp_path: Path, machine: str) -> Store:
    """Open the store of one of several machines that share nothing but object storage."""
    return open_store(tmp_path / machine, f"file://{tmp_path}/bucket")


def test_machines_that_share_a_bucket_alone_have_each_others_states(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("paredown.store.objects.LISTING_SECONDS", 0.0)
    one, other = in_bucket(tmp_path, "one"), in_bucket(tmp_path, "other")
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    assert not other.has("abc")
    one.put(network, RECORD)
    assert [path.name for path in (tmp_path / "bucket" / "states").iterdir()] == ["abc.tar"]
    assert other.has("abc") and not list((tmp_path / "other").rglob("stage.json"))  # asked, not brought
    assert other.record("abc") == RECORD
    own, back = network.module.state_dict(), other.read("abc").module.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in back.items())


def test_a_state_made_before_there_was_a_bucket_goes_there(tmp_path: Path) -> None:
    open_store(tmp_path / "one").put(blueprint.create(ARCHITECTURE, (1, 8, 8)), RECORD)
    assert in_bucket(tmp_path, "one").has("abc") and in_bucket(tmp_path, "other").record("abc") == RECORD


def test_one_machine_at_a_time_makes_a_stage_and_has_an_experiment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("paredown.store.objects.LISTING_SECONDS", 0.0)
    one, other = in_bucket(tmp_path, "one"), in_bucket(tmp_path, "other")
    here, there = (store.root / "experiments" / "e" for store in (one, other))
    with one.lock("abc"), one.exclusive(here):
        assert other.is_locked("abc") and other.is_leased(there) and not other.is_locked("def")
        (here / "result.json").write_text("{}")
    assert not other.is_locked("abc") and not other.is_leased(there)
    other.pull(there)
    assert (there / "result.json").read_text() == "{}"


def test_what_cannot_reach_the_bucket_is_not_kept_here_either(tmp_path: Path, monkeypatch) -> None:
    store = in_bucket(tmp_path, "one")
    monkeypatch.setattr(store.objects, "put", lambda path, name: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(OSError, match="no route"):
        store.put(blueprint.create(ARCHITECTURE, (1, 8, 8)), RECORD)
    assert not store.has("abc")


def test_stores_of_one_process_judge_a_heartbeat_together(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("paredown.store.lease.EXPIRY_SECONDS", 0.0)
    monkeypatch.setattr("paredown.store.objects.LISTING_SECONDS", 0.0)
    one, other = in_bucket(tmp_path, "one"), in_bucket(tmp_path, "other")
    owner = tmp_path / "bucket" / "owners" / "abc.0"
    owner.write_text("elsewhere 1 x 0")
    assert one.is_locked("abc")  # seen for the first time
    time.sleep(0.01)
    assert not other.is_locked("abc")  # without a heartbeat since


def packed(*members: tuple[str, bytes, bytes]) -> bytes:
    """Return a tar of members: name, content, and type."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


ARCHIVES = {
    "no archive": b"x" * 3000,
    "empty": b"",
    "packed": gzip.compress(packed(("stage.json", b"{}", tarfile.REGTYPE))),
    "without a record": packed(("architecture.json", b"{}", tarfile.REGTYPE)),
    "a link": packed(("stage.json", b"", tarfile.SYMTYPE)),
    "a device": packed(("stage.json", b"{}", tarfile.REGTYPE), ("null", b"", tarfile.CHRTYPE)),
    "elsewhere": packed(("stage.json", b"{}", tarfile.REGTYPE), ("../x", b"", tarfile.REGTYPE)),
}


@pytest.mark.parametrize("archive", ARCHIVES)
def test_a_damaged_object_is_one_line_and_leaves_nothing(archive: str, tmp_path: Path) -> None:
    store = in_bucket(tmp_path, "a")
    place = tmp_path / "bucket" / "states" / f"{KEY}.tar"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(ARCHIVES[archive])
    with pytest.raises(UserError, match=rf"{KEY}\.tar.*\(delete that object"):
        store.read(KEY)
    assert not list((store.root / KEY[:2]).glob(f"{KEY}*/*")) and not (tmp_path / "x").exists()


@pytest.mark.parametrize("text", ['{"key": "a', '{"x": 1}', "[]", '{"key": 3}', "\udcff"])
def test_a_damaged_record_is_one_line(text: str, tmp_path: Path) -> None:
    (folder := tmp_path / KEY[:2] / KEY).mkdir(parents=True)
    (folder / "stage.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"stage\.json.*\(delete that folder to have it made again\)"):
        Store(tmp_path).record(KEY)
