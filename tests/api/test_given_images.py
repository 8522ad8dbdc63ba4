"""Images as somebody gives them: read once, with the order and the choice that the line says, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

import paredown
from paredown.api.images import GivenImages

SIZE = 60
IMAGES, LABELS = torch.rand(SIZE, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(SIZE) % 10
TENSORS = TensorDataset(IMAGES, LABELS)


class Photos(Dataset):
    """A data set that draws from every generator, and counts what is read of it."""

    def __init__(self, label: Callable[[int], Any] = int, **more: Any) -> None:
        self.read: list[int] = []
        self.label = label
        vars(self).update(more)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, row: int) -> tuple[torch.Tensor, Any]:
        self.read.append(row)
        noise = 0.01 * (torch.rand(1) + random.random() + np.random.rand())
        return (IMAGES[row] + noise).float(), self.label(int(LABELS[row]))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def compress(net: nn.Module, train: Any, **more: Any) -> nn.Module:
    return paredown.compress(net, "magnitude", sparsity=0.5, train=train, progress=False, **{"epochs": 1} | more)


def test_what_the_loader_makes_of_tensors_is_in_the_digest() -> None:
    def halved(pairs: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = torch.utils.data.default_collate(pairs)
        return images / 2, labels

    class Shifted(TensorDataset):
        def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
            image, label = super().__getitem__(row)
            return image + 1, label

    loaders = [DataLoader(TENSORS), DataLoader(TENSORS, collate_fn=halved), DataLoader(Shifted(IMAGES, LABELS))]
    assert len({GivenImages(loader, "train").digest for loader in loaders}) == 3
    assert GivenImages(DataLoader(TENSORS, batch_size=7), "train").digest == GivenImages(loaders[0], "train").digest


def test_a_data_set_is_read_once_before_the_training_and_the_process_is_left_as_it_was(net: nn.Module) -> None:
    photos = Photos()
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    compress(net, DataLoader(photos, batch_size=20))
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and (before[2] == after[2]).all()
    assert sorted(photos.read) == sorted([0, *range(SIZE), *range(SIZE)])  # its form, the labels, the epoch


def test_labels_that_are_known_are_not_read(net: nn.Module) -> None:
    images = GivenImages(DataLoader(photos := Photos(targets=LABELS.tolist())), "train")
    assert images.labels.tolist() == LABELS.tolist() and len(photos.read) == 1 + SIZE  # the digest looks at them


@pytest.mark.parametrize(
    "targets",
    [[f"class {label}" for label in LABELS], (LABELS + 3).tolist(), LABELS[:5], nn.functional.one_hot(LABELS)],
)
def test_targets_that_are_not_what_is_given_are_not_believed(targets: Any) -> None:
    images = GivenImages(DataLoader(Photos(targets=targets)), "train")
    assert images.labels.tolist() == LABELS.tolist()


def test_a_digest_is_of_the_images_whatever_the_generators_did() -> None:
    digests = set()
    for _ in range(2):
        random.random(), np.random.rand(), torch.rand(1)
        digests.add(GivenImages(DataLoader(Photos()), "train").digest)
    assert len(digests) == 1
    other = GivenImages(DataLoader(Photos(lambda label: 9 - label)), "train").digest
    assert other not in digests


def test_a_generator_is_read_once(net: nn.Module) -> None:
    batches = ((IMAGES[at : at + 20], LABELS[at : at + 20]) for at in range(0, SIZE, 20))
    assert len(compress(net, batches).report.history) == 1
    with pytest.raises(paredown.UserError, match=r"train= has no images .*read before"):
        compress(net, batches)


def test_whole_numbers_of_any_width_are_labels(net: nn.Module) -> None:
    assert compress(net, DataLoader(TensorDataset(IMAGES, LABELS.int()), batch_size=20)).report.history


class Backwards(SequentialSampler):
    def __iter__(self):
        return iter(reversed(range(len(self))))


class Twice(DataLoader):
    def __iter__(self):
        yield from super().__iter__()
        yield from super().__iter__()


REFUSED = {
    "names": (DataLoader(Photos(lambda label: f"class {label}")), "got str 'class 0'"),
    "some names": (DataLoader(Photos(lambda label: label or "none"), batch_size=9), "got str 'none'"),
    "later names": (DataLoader(Photos(lambda label: "nine" if label == 9 else label)), "cannot be read"),
    "names in a list": ([(IMAGES, [str(int(label)) for label in LABELS])], "pairs (images, labels)"),
    "booleans": (DataLoader(TensorDataset(IMAGES, LABELS > 4)), "got (1,) torch.bool"),
    "columns": (DataLoader(TensorDataset(IMAGES, LABELS[:, None])), "got (1, 1) torch.int64"),
    "broken": (DataLoader(Photos(lambda label: 1 // label)), "train= cannot be read, images 0 to 0: ZeroDivisionError"),
    "nothing": ([], "train= has no images"),
    "batches": (DataLoader(TENSORS, batch_sampler=BatchSampler(RandomSampler(TENSORS), 9, False)), "BatchSampler"),
    "no batches": (DataLoader(TENSORS, batch_size=None), "batch_size=None"),
    "ranks": (DataLoader(TENSORS, 10, sampler=DistributedSampler(TENSORS, 2, 0)), "the sampler DistributedSampler"),
    "order": (DataLoader(TENSORS, 10, sampler=Backwards(TENSORS)), "the sampler Backwards"),
    "dropped": (DataLoader(TENSORS, 50, drop_last=True), "drop_last=True, which leaves 10 images out"),
    "replaced": (DataLoader(TENSORS, 50, sampler=RandomSampler(TENSORS, True)), "a sampler with replacement"),
    "fewer": (DataLoader(TENSORS, 50, sampler=RandomSampler(TENSORS, num_samples=9)), "a sampler of 9 of its 60"),
    "first": (DataLoader(TENSORS, 50, sampler=SequentialSampler(range(9))), "a sampler of 9 of its 60 images"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("what", ["train", "test"])
def test_what_would_be_changed_silently_is_refused_in_one_line(name: str, what: str, net: nn.Module) -> None:
    given, said = REFUSED[name]
    good = DataLoader(TENSORS, 20)
    with pytest.raises(paredown.UserError) as raised:
        compress(net, **{"train": good, what: given})
    assert said.replace("train=", f"{what}=") in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "images"),
    [(DataLoader(TENSORS, 20, shuffle=True, drop_last=True), SIZE), (Twice(TENSORS, 20), 2 * SIZE)],
    ids=["nothing dropped", "a loader of one's own"],
)
def test_what_changes_nothing_is_taken(given: DataLoader, images: int) -> None:
    assert len(GivenImages(given, "train").labels) == images


def test_the_epochs_are_those_that_are_said(net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    train = DataLoader(TENSORS, 20)
    caplog.set_level("INFO", "paredown")
    compress(net, train, epochs=2)
    assert "finetune: 2 epochs" in caplog.text
    said = paredown.compress.__doc__
    assert "unset, it is 90" in said and "finetuning is as long as the method's `finetune` says" in said
    compress(net, train, epochs=None, recipe={"epochs": 1})
    assert "finetune: 1 epochs" in caplog.text
