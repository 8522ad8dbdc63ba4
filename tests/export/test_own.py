"""Who made a program: this user on this machine, or somebody who may have made its certificate too."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from paredown.core import trust
from paredown.core.errors import UserError
from paredown.export import certificate, own, program_file
from paredown.export import verify as verification
from paredown.export.files import Source
from paredown.export.verify import verify

DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "_TRUSTED", set())
    return tmp_path / "cache"


def test_what_was_exported_here_is_remembered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.pt2 was not exported here by you.*trust=torch\.export\.load"):
        own.require_own(tmp_path / "x.pt2", DIGEST)
    own.remember(DIGEST)
    own.require_own(tmp_path / "x.pt2", DIGEST)
    with pytest.raises(UserError, match="not exported here"):
        own.require_own(tmp_path / "x.pt2", "1" * 64)


@pytest.mark.parametrize("spoilt", ["paredown", "paredown/exported", f"paredown/exported/{DIGEST}"])
def test_a_note_that_others_can_write_counts_for_nothing(
    spoilt: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.remember(DIGEST)
    (cache / spoilt).chmod(0o777)
    with pytest.raises(UserError, match="not exported here"):
        own.require_own(cache, DIGEST)
    trust.trust(["torch.export.load"])
    own.require_own(cache, DIGEST)
    if spoilt == "paredown":
        with caplog.at_level(logging.WARNING, logger="paredown"):
            own.remember(DIGEST)
        assert "add trust=torch.export.load" in caplog.text


@pytest.mark.parametrize("digest", ["../../x", "", "0" * 63 + "/", "/" + "0" * 63])
def test_a_digest_is_no_path(digest: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not exported here"):
        own.require_own(tmp_path, digest)


@pytest.fixture
def folder(source: Source, tmp_path: Path) -> Path:
    """An export of a program with a certificate that fits it, as a stranger could make it."""
    place = tmp_path / "export"
    place.mkdir()
    program_file.write(source, place / "model.pt2")
    entry = {"file": "model.pt2", "sha256": certificate.sha256(place / "model.pt2"), "top1": 1.0}
    data = {"certified": True, "dataset": {"_target_": "os.system"}, "split": "val", "entries": {"program": entry}}
    (place / certificate.NAME).write_text(json.dumps(data))
    return place


def test_a_stranger_s_program_is_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(verification, "in_fresh_process", lambda *arguments: loaded.append(arguments))
    monkeypatch.setattr(verification, "batches", lambda images: loaded.append(images) or [])
    with pytest.raises(UserError, match=r"model\.pt2 was not exported here by you"):
        verify(folder)
    changed = shutil.copytree(folder, tmp_path / "changed")
    with (changed / "model.pt2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="is not the file that was certified"):
        verify(changed, trusts=["torch.export.load"])
    assert not loaded


@pytest.mark.parametrize("trusts", [[], ["torch.export.load"]])
def test_a_certificate_s_data_set_is_data(folder: Path, trusts: list[str]) -> None:
    own.remember(certificate.sha256(folder / "model.pt2"))
    with pytest.raises(UserError, match=r"os\.system is neither imported nor called"):
        verify(folder, trusts=trusts)


def test_a_certificate_names_files_of_an_export_alone(folder: Path) -> None:
    data = json.loads((folder / certificate.NAME).read_text())
    for name, file in (("program", "../model.pt2"), ("torch", "/etc"), ("os", "model.pt2")):
        data["entries"] = {name: data["entries"].popitem()[1] | {"file": file}}
        (folder / certificate.NAME).write_text(json.dumps(data))
        with pytest.raises(UserError, match="is no file of an export"):
            verify(folder, trusts=["torch.export.load"])
