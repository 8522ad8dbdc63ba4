"""Batches: what they hold, that they repeat, and that ranks share them without loss."""

import numpy as np
import pytest
import torch

from paredown.core.errors import UserError
from paredown.data.augment.pipeline import Augmentation, Normalisation
from paredown.data.cache import Pixels
from paredown.data.loaders import EvalLoader, MemoryImages, TrainLoader

CPU = torch.device("cpu")
COUNT = 103
ALL = Augmentation(crop=2, flip=True, cutout=3)
NORMALISATION = Normalisation((0.5,), (0.25,), CPU)


RAW = np.random.RandomState(0).randint(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def images():
    return MemoryImages(Pixels(RAW, np.arange(COUNT)))  # every image its own label


def train(images, batch_size=20, *, seed=0, rank=0, world=1, augmentation=ALL):
    place = {"batch_size": batch_size, "seed": seed, "device": CPU, "rank": rank, "world": world}
    return TrainLoader(images, np.arange(len(images.labels)), augmentation, NORMALISATION, **place)


def test_without_augmentation_the_images_come_back(images):
    for batch, labels in train(images, augmentation=Augmentation()):
        raw = torch.from_numpy(RAW[labels])
        torch.testing.assert_close(batch, ((raw.float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2))


def test_an_epoch_sees_every_image_once_in_another_order(images):
    loader = train(images)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append(torch.cat([labels for _, labels in loader]))
    assert all(order.sort().values.tolist() == list(range(COUNT)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def by_label(batches):
    return {int(label): image for images, labels in batches for image, label in zip(images, labels, strict=True)}


def test_seed_and_epoch_alone_decide(images):
    first, second = train(images), train(images)
    list(first)  # an epoch more or less behind it changes nothing
    first.set_epoch(4)
    second.set_epoch(4)
    for (a, b), (c, d) in zip(first, second, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    other = train(images, seed=1)
    other.set_epoch(4)
    assert not torch.equal(next(iter(other))[1], next(iter(second))[1])


def test_the_global_generator_is_neither_read_nor_moved(images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = next(iter(train(images)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(next(iter(train(images)))[0], first[0])


def test_an_images_augmentation_does_not_depend_on_the_batch_size(images):
    small, large = by_label(train(images, 10)), by_label(train(images, 103))
    assert all(torch.equal(small[label], large[label]) for label in range(COUNT))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_union_of_the_ranks_is_the_batch_of_one_process(images, world):
    whole = list(train(images))
    ranks = [list(train(images, rank=rank, world=world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(train(images, rank=0, world=world))}
    for (image, label), parts in zip(whole, zip(*ranks, strict=True), strict=False):
        for rank, (part, part_label) in enumerate(parts):
            assert torch.equal(part, image[rank::world])
            assert torch.equal(part_label, label[rank::world])


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "batches", "last"),
    [(103, 20, 1, 6, 3), (101, 20, 1, 5, 20), (103, 20, 2, 5, 10), (104, 20, 2, 6, 2), (100, 20, 1, 5, 20)],
)
def test_the_last_batch_stays_where_every_rank_gets_two(count, batch_size, world, batches, last):
    images = MemoryImages(Pixels(np.zeros((count, 8, 8, 1), np.uint8), np.arange(count)))
    loader = train(images, batch_size, world=world)
    got = [len(labels) for _, labels in loader]
    assert (len(loader), len(got), got[-1]) == (batches, batches, last)


def test_batches_too_small_for_the_ranks_are_refused(images):
    with pytest.raises(UserError, match="2 ranks need"):
        train(images, batch_size=3, world=2)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_evaluate_every_image_once(images, world):
    rows = np.arange(5, 50)
    place = {"batch_size": 7, "device": CPU, "world": world}
    loaders = [EvalLoader(images, rows, NORMALISATION, rank=rank, **place) for rank in range(world)]
    seen = [label for loader in loaders for _, labels in loader for label in labels.tolist()]
    assert sorted(seen) == rows.tolist()
    assert all(len(loader) == len(list(loader)) for loader in loaders)


@pytest.mark.gpu
def test_a_gpu_gives_the_batches_of_the_cpu(images):
    device = torch.device("cuda", 0)
    place = {"batch_size": 20, "seed": 0, "device": device}
    normalisation = Normalisation((0.5,), (0.25,), device)
    ours = TrainLoader(images, np.arange(COUNT), ALL, normalisation, **place)
    for (image, label), (expected, expected_label) in zip(ours, train(images), strict=True):
        assert image.device == device
        torch.testing.assert_close(image.cpu(), expected)
        assert torch.equal(label.cpu(), expected_label)
