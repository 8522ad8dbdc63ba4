"""A batch augmented at once equals torchvision, image by image."""

import pytest
import torch
from torchvision.transforms import functional

from paredown.core.errors import UserError
from paredown.data.augment.pipeline import CUT_X, CUT_Y, LEFT, MIRROR, TOP, Augmentation, Normalisation

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def batch(height, width, channels, augmentation, count=64):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    return images, augmentation.draw(count, height, width, generator)


def one_by_one(image, draw, augmentation, mean, std):
    image = image.permute(2, 0, 1)
    height, width = image.shape[1:]
    image = functional.pad(image, augmentation.crop)
    image = functional.crop(image, int(draw[TOP]), int(draw[LEFT]), height, width)
    if augmentation.flip and draw[MIRROR]:
        image = functional.hflip(image)
    image = functional.normalize(image.float() / 255, mean, std)
    if side := augmentation.cutout:
        top, left = int(draw[CUT_Y]) - side // 2, int(draw[CUT_X]) - side // 2
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return image


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(crop=4),
        Augmentation(flip=True),
        Augmentation(crop=4, flip=True),
        Augmentation(crop=2, flip=True, cutout=5),
        Augmentation(cutout=8),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (9, 14, 3)])
def test_a_batch_equals_torchvision_image_by_image(augmentation, shape):
    images, draws = batch(*shape, augmentation)
    mean, std = MEAN[: shape[2]], STD[: shape[2]]
    normalise = Normalisation(mean, std, torch.device("cpu"))
    ours = augmentation.cut(normalise(augmentation.move(images, draws)), draws)
    theirs = torch.stack(
        [one_by_one(image, draw, augmentation, mean, std) for image, draw in zip(images, draws, strict=True)]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_draws_cover_every_offset_and_no_more():
    augmentation = Augmentation(crop=4, flip=True, cutout=8)
    draws = augmentation.draw(20_000, 32, 24, torch.Generator().manual_seed(0))
    for column, values in ((TOP, 9), (LEFT, 9), (MIRROR, 2), (CUT_Y, 32), (CUT_X, 24)):
        share = torch.bincount(draws[:, column], minlength=values) / len(draws)
        assert len(share) == values
        assert (share - 1 / values).abs().max() < 0.015


def test_switching_one_augmentation_on_leaves_the_draws_of_the_others():
    plain, cut = (
        augmentation.draw(100, 32, 32, torch.Generator().manual_seed(0))
        for augmentation in (Augmentation(crop=4), Augmentation(crop=4, flip=True, cutout=8))
    )
    assert torch.equal(plain, cut)


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"cutout": 2.5}, {"flip": "both"}, {"crop": True}])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UserError, match=f"dataset.augment.{next(iter(wrong))}"):
        Augmentation(**wrong)
