from __future__ import annotations

import json
import resource

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from paredown.core.errors import UserError
from paredown.tracking import sender
from paredown.tracking.journal import Journal, check_name


def test_reads_on_where_it_stopped(tmp_path):
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append("metrics", step=step, values={})
    first, offset = journal.read(0, 2)
    rest, end = journal.read(offset)
    assert [record["step"] for record in first + rest] == [0, 1, 2, 3, 4]
    assert journal.read(end) == ([], end)
    assert end == journal.path.stat().st_size


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_torn_last_line(tmp_path, kept):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0, values={})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[:kept])
    assert [record["step"] for record in journal.read()[0]] == [0]  # a reader leaves the writer's line alone
    assert journal.path.stat().st_size > len(whole)
    journal.repair()
    journal.append("metrics", step=1, values={})
    assert [json.loads(line)["step"] for line in journal.path.read_text().splitlines()] == [0, 1]


def test_a_full_disk_leaves_nothing_of_a_line(tmp_path):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0, values={})
    size, limits = journal.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))  # the kernel takes ten bytes more, no eleventh
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append("metrics", step=1, values={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.path.stat().st_size == size
    journal.append("metrics", step=2, values={})
    assert [record["step"] for record in journal.read()[0]] == [0, 2]


def test_damage_in_the_middle_is_named(tmp_path):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0, values={})
    journal.path.write_bytes(b"{torn\n" + journal.path.read_bytes())
    with pytest.raises(UserError, match=r"journal\.jsonl cannot be read: .*delete the line before byte 6"):
        journal.read()


def test_kept_file_outlives_its_original_and_takes_a_new_version(tmp_path):
    journal = Journal(tmp_path)
    original = tmp_path / "weights"
    original.write_text("old")
    journal.keep(original, "state/weights")
    original.unlink()
    assert (journal.files / "state/weights").read_text() == "old"
    original.write_text("new")
    journal.keep(original, "state/weights")
    assert (journal.files / "state/weights").read_text() == "new"
    assert [path.name for path in (journal.files / "state").iterdir()] == ["weights"]


def test_missing_artifact_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path).keep(tmp_path / "absent", "absent")


@given(st.text(alphabet="aB1_-.: /é\n%$\\", max_size=8))
@example("val/top1")
@example("a" * 251)
@example("..1")
def test_a_name_that_is_taken_is_taken_by_mlflow(name):
    try:
        check_name(name)
    except ValueError:
        return
    try:
        _validate_metric_name(name)
        _validate_param_name(name)
        _validate_tag_name(name)
    except MlflowException as error:
        raise AssertionError(f"{name!r} would block the journal") from error


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a\nb", "ssc(g=2)", "a" * 251])
def test_refused_names(name):
    with pytest.raises(ValueError, match="MLflow accepts no record named"):
        check_name(name)


@pytest.mark.parametrize("name", ["val/top1", "penalty/soft orthogonality", "recipe.epochs", "mlflow.note.content"])
def test_usual_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/../../secret", "a//b", "files\n/x"])
def test_a_record_names_no_file_outside_its_folder(name, tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.append("artifact", name=name)
    with pytest.raises(UserError, match="delete the line before byte"):
        journal.read()


def test_a_link_among_the_kept_files_is_not_sent(tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "secret").write_text("private")
    journal = Journal(tmp_path / "e")
    journal.keep_text("mine", "a.txt")
    (journal.files / "b.txt").symlink_to(tmp_path / "secret")
    (journal.files / "sub").symlink_to(tmp_path)
    sent: list[str] = []

    class Client:
        def log_artifact(self, run: str, path: str, folder: str | None) -> None:
            sent.append(path)

    for name in ("a.txt", "b.txt", "sub/secret"):
        sender._upload(Client(), "run", journal.files, name)
    assert sent == [str(journal.files / "a.txt")] and caplog.text.count("is a link") == 2
