"""The script that ships with an export makes the evaluation's input of image files of any shape."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paredown.core.errors import UserError
from paredown.data.datasets.folder import Folder
from paredown.export import preparation
from paredown.export.usage import prepared
from paredown.export.work import _facts
from paredown.results.find import Trained

SHAPES = [(40, 90), (90, 40), (64, 64), (33, 71), (300, 41)]  # width and height


def facts_of(data: Folder) -> dict:
    return _facts(Trained("one", None, {"names": {}}), data)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of photographs, one image of each shape in each, as JPEG and PNG."""
    random = np.random.RandomState(0)
    for label in ("a", "b"):
        for part in ("train", "test"):
            (tmp_path / part / label).mkdir(parents=True)
            for number, (width, height) in enumerate(SHAPES):
                rough = random.randint(0, 256, (6, 6, 3)).astype(np.uint8)
                image = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
                image.save(tmp_path / part / label / f"{number}.{'jpg' if number % 2 else 'png'}")
    return tmp_path


def opened(root: Path, size: int | None, memory: float) -> Folder:
    data = Folder(name="folder", root=root, size=size, memory=memory, workers=0, mean=[0.4, 0.5, 0.6], std=[0.2] * 3)
    data.prepare()
    return data


@pytest.mark.parametrize("memory", [2, 0], ids=["in memory", "streamed"])
@pytest.mark.parametrize("size", [28, 48])
def test_the_script_prepares_images_as_the_evaluation_did(root: Path, size: int, memory: float) -> None:
    """Compared with the batches that the evaluation itself runs on, found again by their labels and order."""
    data = opened(root, size, memory)
    (images, labels), *_ = data.eval_loader("test", 100, "cpu")
    files = [path for label in ("a", "b") for path in (root / "test" / label).iterdir()]
    shipped = [torch.from_numpy(prepared(str(path), facts_of(data))) for path in files]
    nearest = [min(float((image - other).abs().max()) for other in images) for image in shipped]
    assert len(files) == len(labels) == 10 and max(nearest) < 1e-6
    assert preparation.difference(data, facts_of(data)) < 1e-6


def test_another_preparation_is_seen(root: Path) -> None:
    data = opened(root, 28, 0)
    assert preparation.difference(data, facts_of(data) | {"scaled": [28, 28]}) > 0.01
    assert preparation.difference(data, facts_of(data) | {"mean": [0.5, 0.5, 0.5]}) > 0.01


def test_images_of_one_oblong_size_go_in_as_they_are(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                pixels = np.random.RandomState(number).randint(0, 256, (20, 36, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    data = opened(tmp_path, None, 2)
    assert data.input_shape == (3, 20, 36) and data.scaled == (20, 36)
    shipped = prepared(str(tmp_path / "test" / "a" / "1.png"), facts_of(data))
    expected = (np.random.RandomState(1).randint(0, 256, (20, 36, 3)) / 255 - [0.4, 0.5, 0.6]) / 0.2
    np.testing.assert_allclose(shipped, expected.transpose(2, 0, 1), atol=1e-5)


def test_deep_images_are_refused_by_both(root: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(deep := tmp_path / "deep.png")
    data = opened(root, 28, 2)
    with pytest.raises(SystemExit, match="more than 8 bits"):
        prepared(str(deep), facts_of(data))
    with pytest.raises(UserError, match="more than 8 bits"):
        data.evaluated(deep)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"


def test_a_format_for_which_a_program_would_be_started_is_refused_by_both(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        pytest.fail("a program is started")

    (cat := tmp_path / "cat.jpg").write_bytes(EPS)
    data = opened(root, 28, 2)
    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    with pytest.raises(SystemExit, match=r"cat\.jpg' is damaged, or of none of the formats .*JPEG"):
        prepared(str(cat), facts_of(data))
    with pytest.raises(UserError, match=r"cat\.jpg cannot be read: it is damaged, or of none of the formats .*JPEG"):
        data.evaluated(cat)
