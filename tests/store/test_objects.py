"""Objects behind an fsspec URL: complete or absent, and folders synchronised with them."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import pytest

from paredown.core.errors import UserError
from paredown.store.objects import OSErrorFileSystem, open_objects
from paredown.store.states import open_store, unpack


def another(url):
    """Open the store at `url` as another process would."""
    return open_objects.__wrapped__(url)


def test_an_object_comes_back_and_a_listing_names_it(url, tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    open_objects(url).put(tmp_path / "x", "states/k.tar")
    other = another(url)
    assert other.names("states") == {"k.tar"} and other.names("nothing") == set()
    assert other.get("states/k.tar", tmp_path / "new" / "y") and (tmp_path / "new" / "y").read_bytes() == b"1234"
    assert not other.get("states/l.tar", tmp_path / "z") and not list(tmp_path.glob("*z*"))


def test_a_folder_is_pushed_and_pulled_without_machine_specific_files(url, tmp_path) -> None:
    here, there = tmp_path / "here" / "e", tmp_path / "there" / "e"
    (here / "tracking").mkdir(parents=True)
    for name in ("result.json", "tracking/journal.jsonl", "tracking/sent-1.json", ".lock"):
        (here / name).write_text("1")
    one, other = open_objects(url), another(url)
    one.push(here, "experiments/e")
    other.pull("experiments/e", there)
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*.*")) == ["result.json", "tracking/journal.jsonl"]
    (here / "tracking" / "journal.jsonl").write_text("123")
    one.push(here, "experiments/e")
    other.pull("experiments/e", there)
    assert (there / "tracking" / "journal.jsonl").read_text() == "123"


@pytest.mark.parametrize("name", ["tracking/journal.jsonl", "search.journal"])
def test_a_journal_that_grew_during_an_outage_is_kept_and_pushed(url, tmp_path, name) -> None:
    here, there = tmp_path / "here" / "e", tmp_path / "there" / "e"
    (here / name).parent.mkdir(parents=True)
    (there / name).parent.mkdir(parents=True)
    for path, text in ((here / name, "123"), (here / "result.json", "ours"), (there / name, "1")):
        path.write_text(text)
    (there / "result.json").write_text("{}")
    one = open_objects(url)
    one.push(here, "experiments/e")
    another(url).push(there, "experiments/e")  # the last upload is the older journal
    one.pull("experiments/e", here)
    assert (here / name).read_text() == "123" and (here / "result.json").read_text() == "{}"
    one.push(here, "experiments/e")
    another(url).pull("experiments/e", there)
    assert (there / name).read_text() == "123"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sss://x/y", "no address: ValueError: Protocol not known: sss"),
        ("file:///proc/nothing/x", "cannot write to store=file:///proc"),
    ],
)
def test_what_cannot_be_a_store_is_one_line(url, message) -> None:
    with pytest.raises(UserError, match=message):
        open_objects(url)


LEADING_OUT = ["../other/result.json", "../../../home/.bashrc", "/abs/x", "a/../../x", "a//b", "./x", "..", "a/./b"]
LEADING_OUT += ["a\\..\\b", "a\nb", "a\x1b[31m", "\u202etxt.exe"]


class Hostile:
    """A file system that lists what no file system of ours would, as a bucket does: a key is any text."""

    def __init__(self, fs, root: str, names: list[str]) -> None:
        self.fs, self.root, self.listed = fs, root, names

    def __getattr__(self, name: str):
        return getattr(self.fs, name)

    def find(self, path: str, detail: bool) -> dict[str, dict[str, int]]:
        return {f"{path}/{name}": {"size": 1} for name in self.listed}


@pytest.mark.parametrize("name", LEADING_OUT)
def test_an_object_that_leads_out_of_its_folder_is_refused_before_anything_is_written(name, url, tmp_path) -> None:
    objects, folder = another(url), tmp_path / "deep" / "out" / "experiments" / "e"
    (tmp_path / "x").write_text("1")
    objects.put(tmp_path / "x", "experiments/e/first")
    objects.fs = Hostile(objects.fs, objects.root, ["first", name])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"outside of .*delete it"):
        objects.pull("experiments/e", folder)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["states/../../x", "/x", "states//x", "states/x\n"])
def test_a_key_stays_in_the_store(key, url, tmp_path) -> None:
    objects = another(url)
    (tmp_path / "x").write_text("1")
    for ask in (lambda: objects.put(tmp_path / "x", key), lambda: objects.get(key, tmp_path / "y")):
        with pytest.raises(UserError, match="leads out of the store"):
            ask()
    assert not (tmp_path / "y").exists()


def test_a_link_on_the_way_is_not_followed(url, tmp_path) -> None:
    one, other = another(url), another(url)
    here, there, outside = tmp_path / "here", tmp_path / "there", tmp_path / "outside"
    for folder in (here / "sub", there, outside):
        folder.mkdir(parents=True)
    (here / "sub" / "x").write_text("evil")
    one.push(here, "experiments/e")
    (there / "sub").symlink_to(outside)
    with pytest.raises(UserError, match="through a link"):
        other.pull("experiments/e", there)
    assert not list(outside.iterdir())


def test_locks_and_cursors_of_another_machine_are_not_taken_over(url, tmp_path) -> None:
    objects = another(url)
    (tmp_path / "x").write_text("1")
    for name in (".lock", "tracking/sent-123.json", "result.json"):
        objects.put(tmp_path / "x", f"experiments/e/{name}")
    objects.pull("experiments/e", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").rglob("*")] == ["result.json"]


def test_links_and_odd_names_are_not_uploaded(url, tmp_path, caplog) -> None:
    here, secret = tmp_path / "e", tmp_path / "secret"
    (here / "sub").mkdir(parents=True)
    secret.mkdir()
    (secret / "id_rsa").write_text("private")
    (here / "result.json").write_text("1")
    (here / "key").symlink_to(secret / "id_rsa")
    (here / "folder").symlink_to(secret)
    (here / "sub" / "a\nb").write_text("1")
    objects = another(url)
    with caplog.at_level(logging.WARNING, logger="paredown"):
        objects.push(here, "experiments/e")
        objects.push(here, "experiments/e")
    assert len(caplog.records) == 2 and all("not uploaded" in record.getMessage() for record in caplog.records)
    objects.pull("experiments/e", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").rglob("*")] == ["result.json"]


def test_a_shared_folder_s_links_are_not_read_or_written_through(tmp_path) -> None:
    objects = another(f"file://{tmp_path}/b")
    (tmp_path / "secret" / "e").mkdir(parents=True)
    (tmp_path / "secret" / "x").write_text("private")
    (tmp_path / "secret" / "e" / "y").write_text("private")
    (tmp_path / "b" / "states").mkdir()
    (tmp_path / "b" / "states" / "k.tar").symlink_to(tmp_path / "secret" / "x")
    (tmp_path / "b" / "experiments").symlink_to(tmp_path / "secret")
    for ask in (
        lambda: objects.get("states/k.tar", tmp_path / "y"),
        lambda: objects.put(tmp_path / "secret" / "x", "experiments/e/x"),
        lambda: objects.pull("experiments/e", tmp_path / "there"),
    ):
        with pytest.raises(UserError, match="a link"):
            ask()
    assert sorted(path.name for path in (tmp_path / "secret").rglob("*")) == ["e", "x", "y"]
    assert not (tmp_path / "there").exists()


def test_a_state_is_uploaded_as_plain_files_alone(tmp_path) -> None:
    (tmp_path / "private").write_text("private")
    folder = tmp_path / "store" / "ab" / "abc"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{}")
    (folder / "weights.safetensors").symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match=r"weights\.safetensors is no file of a state"):
        open_store(tmp_path / "store", f"file://{tmp_path}/b").has("abc")
    assert not list((tmp_path / "b").glob("states/*"))


def _packed(path: Path, name: str, kind: bytes, target: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../../../evil", tarfile.REGTYPE, ""),
        ("/tmp/evil", tarfile.REGTYPE, ""),
        ("stage.json", tarfile.SYMTYPE, "/etc/passwd"),
        ("stage.json", tarfile.LNKTYPE, "/etc/passwd"),
        ("stage.json", tarfile.FIFOTYPE, ""),
        ("stage.json", tarfile.CHRTYPE, ""),
    ],
)
def test_a_packed_state_of_anything_else_is_refused(name, kind, target, tmp_path) -> None:
    url = f"file://{tmp_path}/b"
    another(url).put(_packed(tmp_path / "evil.tar", name, kind, target), "states/abc.tar")
    with pytest.raises(UserError, match="delete that object"):
        open_store(tmp_path / "out" / "store", url).folder("abc")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "stage.json")]


@pytest.mark.parametrize("key", ["../../x", "/etc", "a/b", "", "a\n"])
def test_a_state_s_key_is_one_word(key, tmp_path) -> None:
    with pytest.raises(UserError, match="is no key of a state"):
        open_store(tmp_path).has(key)


def test_a_bucket_s_answer_is_one_printable_line(url) -> None:
    class Answering:
        def ls(self, path: str) -> None:
            raise RuntimeError(f"no\n\x1b]0;title\x07 {path}" + "!" * 10**6)

    with pytest.raises(OSError, match=r"^RuntimeError: no") as raised:
        OSErrorFileSystem(Answering()).ls("x")
    assert str(raised.value).isprintable() and len(str(raised.value)) < 400


@pytest.mark.parametrize("name", ["a\x1b[31m", "\u202etxt.exe", "a\nb"])
def test_a_packed_state_s_files_have_plain_names(name, tmp_path) -> None:
    with pytest.raises(UserError, match=r"a file of the name .*delete that object") as raised:
        unpack(_packed(tmp_path / "x.tar", name, tarfile.REGTYPE), tmp_path / "out", "b/states/x.tar")
    assert str(raised.value).isprintable() and not (tmp_path / "out").exists()
