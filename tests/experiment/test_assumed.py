"""A plan without data: the known sizes stand in, everything else about a data set is checked as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.plan import Fit
from paredown.data.images import ImageData, MissingImages
from paredown.data.known import KNOWN, known_of
from paredown.experiment.assumed import Assuming
from paredown.experiment.prepare import open_data, prepare

QUICK = ["recipe.precision=32", "tracking=off"]


def dataset(name: str, *more: str) -> dict[str, object]:
    return compose([f"dataset={name}", *more])["dataset"]


def assumed(name: str, *more: str) -> tuple[ImageData, list[str]]:
    opener = Assuming()
    return opener(dataset(name, *more)), list(opener.assumed)


def test_the_embedded_set_has_the_size_that_is_known_of_it(tmp_path: Path) -> None:
    data, lines = assumed("digits", "dataset.validation=0", f"dataset.cache={tmp_path}")
    known = KNOWN["digits"]
    assert not lines and (data.sizes["train"], data.sizes["test"]) == (known.train, known.test)
    assert (data.input_shape, data.num_classes) == (known.shape, known.classes)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenet"])
def test_an_absent_set_is_planned_by_its_known_size_and_nothing_is_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a download"))
    data, (line,) = assumed(name, f"dataset.root={tmp_path / 'none'}", "dataset.validation=0")
    known = KNOWN[name]
    assert data.sizes == {"train": known.train, "val": 0, "test": known.test}
    assert data.input_shape == known.shape and f"{known.train:,} training" in line and str(tmp_path / "none") in line
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="are not here"):
        next(iter(data.train_loader(8, 0, torch.device("cpu"))))


def test_settings_of_the_set_hold_for_the_assumed_one(tmp_path: Path) -> None:
    more = [f"dataset.root={tmp_path}", "dataset.validation=0.1", "dataset.classes=5", "dataset.fraction=0.5"]
    data, _ = assumed("cifar10", *more)
    assert data.num_classes == 5 and data.sizes == {"train": 11_250, "val": 2_500, "test": 5_000}
    assert known_of(dataset("imagenet", "dataset.size=160")).shape == (3, 160, 160)  # type: ignore[union-attr]
    assert known_of(dataset("svhn", "dataset.extra=true")).train == 73_257 + 531_131  # type: ignore[union-attr]
    assert np.bincount(data._split("train")[0].labels).tolist() == [5_000] * 10


def test_a_set_of_unknown_size_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingImages, match=r"no images in .*none \(there is no such folder\): point dataset.root"):
        assumed("folder", f"dataset.root={tmp_path / 'none'}")
    with pytest.raises(MissingImages, match=rf"no CIFAR-10 in {tmp_path}: point"):
        open_data(dataset("cifar10", f"dataset.root={tmp_path}", "dataset.download=false")).prepare()


def test_a_damaged_set_is_not_assumed(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"no batch")
    with pytest.raises(UserError, match="is not a whole batch"):
        assumed("cifar10", f"dataset.root={tmp_path}", f"dataset.cache={tmp_path}")


def test_an_experiment_is_planned_without_its_images(tmp_path: Path) -> None:
    words = ["dataset=cifar10", "model=resnet20", "method=svd_training", f"dataset.root={tmp_path}", *QUICK]
    experiment = prepare(compose([*words, f"output={tmp_path}"]), Assuming())
    fits = [step for step in experiment.steps if isinstance(step.stage, Fit)]
    assert [step.stage.name for step in fits] == ["full_rank", "sparsify", "finetune"]
    assert {step.images for step in fits} == {50_000}
