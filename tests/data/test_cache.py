"""The cache: decoded once even by many processes at once, never half there, and only where we may write."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from paredown.core.errors import UserError
from paredown.data.cache import Pixels, cache_folder, decoded, file_state, load


def data(value=7):
    part = Pixels(np.full((6, 4, 4, 3), value, np.uint8), np.arange(6) % 2)
    return decoded(["a", "b"], part, part)


def decode_slowly(folder: Path):
    (folder / f"decoded-{os.getpid()}").touch()
    time.sleep(0.3)
    return data()


def open_cache(folder: Path) -> tuple[int, str]:
    got = load(folder / "cache", "set", "state", lambda: decode_slowly(folder))
    return int(got.train.images.sum()), got.fingerprint


def test_many_processes_decode_once(tmp_path):
    with multiprocessing.get_context("fork").Pool(6) as pool:
        results = pool.map(open_cache, [tmp_path] * 6, chunksize=1)
    assert set(results) == {(6 * 48 * 7, data().fingerprint)}
    assert len(list(tmp_path.glob("decoded-*"))) == 1
    assert not list((tmp_path / "cache").glob(".set*"))  # nothing temporary is left


def killed_while_writing(folder: Path) -> None:
    np.save = lambda *words, **options: os.kill(os.getpid(), signal.SIGKILL)
    load(folder, "set", "state", data)


def test_what_a_killed_process_left_is_replaced(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and list(tmp_path.glob(".set*"))
    assert load(tmp_path, "set", "state", data).fingerprint == data().fingerprint
    assert not list(tmp_path.glob(".set*"))


def test_a_second_opening_maps_the_file_and_decodes_nothing(tmp_path):
    load(tmp_path, "set", "state", data)
    again = load(tmp_path, "set", "state", lambda: pytest.fail("decoded again"))
    assert isinstance(again.train.images, np.memmap)
    assert again.class_names == ("a", "b")


def test_a_changed_source_file_is_decoded_again(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"1")
    first = load(tmp_path, "set", file_state([source], tmp_path), lambda: data(1))
    source.write_bytes(b"22")
    second = load(tmp_path, "set", file_state([source], tmp_path), lambda: data(2))
    assert (first.train.images[0, 0, 0, 0], second.train.images[0, 0, 0, 0]) == (1, 2)
    assert first.fingerprint != second.fingerprint


def test_a_decoder_that_fails_leaves_nothing_behind(tmp_path):
    def broken():
        raise UserError("damaged")

    with pytest.raises(UserError, match="damaged"):
        load(tmp_path, "set", "state", broken)
    assert load(tmp_path, "set", "state", data).fingerprint == data().fingerprint


def test_no_pickled_object_is_read_from_a_cache(tmp_path):
    load(tmp_path, "set", "state", data)
    (entry,) = (path for path in tmp_path.iterdir() if path.is_dir())
    np.save(entry / "train_images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="Python objects"):
        load(tmp_path, "set", "state", data)
    assert json.loads((entry / "metadata.json").read_text())["class_names"] == ["a", "b"]


def test_the_cache_lies_beside_the_data_unless_they_are_read_only(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    assert cache_folder(root, other) == other
    root.mkdir()
    assert cache_folder(root, other) == root / ".paredown"
    root.chmod(0o555)  # the superuser could still write here, and must not
    assert cache_folder(root, other) == other
    root.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write decoded images to .*dataset.cache="):
        load(tmp_path / "file" / "cache", "set", "state", data)


DAMAGE = {
    "metadata.json": b"{",
    "train_images.npy": b"\x93NUMPY\x01",
    "test_labels.npy": b"",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_named_with_what_to_delete(name, tmp_path):
    load(tmp_path, "set", "state", data)
    (entry,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (entry / name).write_bytes(DAMAGE[name])
    with pytest.raises(UserError, match=rf"{name}.*delete {entry}, and it is made again"):
        load(tmp_path, "set", "state", data)
