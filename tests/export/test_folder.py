"""The folder of an export: what is in it is replaced only by a finished one, and only where it was an export's."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.core.errors import UserError
from paredown.export import certificate
from paredown.export.folder import replacing, require_replaceable


def earlier(place: Path) -> Path:
    """An export of three files, and a note of the user's."""
    require_replaceable(place)
    with replacing(place) as new:
        (new / "torch").mkdir()
        (new / "torch" / "weights.safetensors").write_text("old")
        (new / "README.md").write_text("old")
        (new / certificate.NAME).write_text("{}")
    (place / "notes.txt").write_text("mine")
    return place


def contents(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}


def test_a_failed_export_leaves_the_earlier_one(tmp_path: Path) -> None:
    place = earlier(tmp_path / "exported")
    before = contents(place)
    with pytest.raises(ValueError, match="opset"), replacing(place) as new:
        (new / "README.md").write_text("new")
        raise ValueError("opset")
    assert contents(place) == before


def test_a_finished_export_replaces_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    place = earlier(tmp_path / "exported")
    require_replaceable(place)
    with replacing(place) as new:
        (new / "model.onnx").write_text("new")
        (new / certificate.NAME).write_text("[]")
    assert contents(place) == {"model.onnx": "new", certificate.NAME: "[]", "notes.txt": "mine"}


@pytest.mark.parametrize("name", ["README.md", "torch/thesis.txt", "usage.py"])
def test_files_that_are_no_exports_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{Path(name).parts[0]} that is no export's"):
        require_replaceable(tmp_path)
    assert contents(tmp_path) == {name: "mine"}
