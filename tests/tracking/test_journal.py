from __future__ import annotations

import json
import resource

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from paredown.errors import UserError
from paredown.tracking.journal import Journal, check_name


def test_reads_on_where_it_stopped(tmp_path):
    journal = Journal(tmp_path)
    for step in range(5):
        journal.append("metrics", step=step)
    first, offset = journal.read(0, 2)
    rest, end = journal.read(offset)
    assert [record["step"] for record in first + rest] == [0, 1, 2, 3, 4]
    assert journal.read(end) == ([], end)
    assert end == journal.path.stat().st_size


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_torn_last_line(tmp_path, kept):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[:kept])
    assert [record["step"] for record in journal.read()[0]] == [0]  # a reader leaves the writer's line alone
    assert journal.path.stat().st_size > len(whole)
    journal.repair()
    journal.append("metrics", step=1)
    assert [json.loads(line)["step"] for line in journal.path.read_text().splitlines()] == [0, 1]


def test_a_full_disk_leaves_nothing_of_a_line(tmp_path):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0)
    size, limits = journal.path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))  # the kernel takes ten bytes more, no eleventh
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append("metrics", step=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.path.stat().st_size == size
    journal.append("metrics", step=2)
    assert [record["step"] for record in journal.read()[0]] == [0, 2]


def test_damage_in_the_middle_is_named(tmp_path):
    journal = Journal(tmp_path)
    journal.append("metrics", step=0)
    journal.path.write_bytes(b"{torn\n" + journal.path.read_bytes())
    with pytest.raises(UserError, match=r"journal\.jsonl: the line before byte 6 is not JSON"):
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
    with pytest.raises(ValueError, match="MLflow takes no record named"):
        check_name(name)


@pytest.mark.parametrize("name", ["val/top1", "penalty/soft orthogonality", "recipe.epochs", "mlflow.note.content"])
def test_usual_names(name):
    assert check_name(name) == name
