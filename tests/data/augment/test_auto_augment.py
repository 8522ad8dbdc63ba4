"""AutoAugment of a whole batch against torchvision's, image by image, operation by operation."""

from __future__ import annotations

import math
import time
from typing import get_args

import pytest
import torch
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from paredown.core.errors import UserError
from paredown.data.augment.auto_augment import CHANCES, OPERATIONS, SIGNED, PolicyName, magnitudes, policy
from paredown.data.augment.pipeline import POLICY, Augmentation

CPU = torch.device("cpu")
SHIFTING = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def images(count: int = 24, height: int = 32, width: int = 32) -> torch.Tensor:
    """Smooth ones and noise, one of a single colour, one of two."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    noise = torch.randint(-20, 21, smooth.shape, generator=generator)
    made = (smooth + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    made[0] = 100
    made[1, :5] = 200
    made[1, 5:] = 30
    return made


def by_torchvision(image: torch.Tensor, name: str, magnitude: float) -> torch.Tensor:
    moved = _apply_op(image.permute(2, 0, 1), name, magnitude, InterpolationMode.NEAREST, None)
    return moved.permute(1, 2, 0)


def between_two_pixels(name: str, magnitude: float, size: tuple[int, int]) -> torch.Tensor:
    """Where the source of a pixel (H, W) lies between two, to within a thousandth."""
    height, width = size
    y, x = torch.meshgrid(*(torch.arange(n).double() - (n - 1) / 2 for n in size), indexing="ij")
    angle = math.radians(magnitude)
    sources = {
        "ShearX": (x + magnitude * (y + height / 2), y),
        "ShearY": (x, y + magnitude * (x + width / 2)),
        "Rotate": (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y),
    }.get(name, (x, y))
    sources = [source + (n - 1) / 2 for source, n in zip(sources, (width, height), strict=True)]
    return torch.stack([((source % 1) - 0.5).abs() < 1e-3 for source in sources]).any(dim=0)


@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_at_each_level_is_torchvisions(name, size) -> None:
    batch = images(24, *size)
    levels = torch.tensor(magnitudes(*size).get(name, [0.0]), dtype=torch.float64)
    for sign in (1, -1) if name in SIGNED else (1,):
        for level in (sign * levels).tolist():
            ours = OPERATIONS[name](batch, torch.full((24,), level, dtype=torch.float64))
            theirs = torch.stack([by_torchvision(image, name, level) for image in batch])
            assert ours.dtype == torch.uint8
            same = (ours == theirs).all(dim=-1)
            if name in SHIFTING:
                tied = between_two_pixels(name, level, size)
                assert tied.float().mean() < 0.25
                same |= tied
            assert same.all(), (level, int((~same).sum()))


def test_each_image_gets_its_own_magnitude() -> None:
    batch = images()
    for name, levels in magnitudes(32, 32).items():
        each = torch.tensor([levels[index % 10] for index in range(24)], dtype=torch.float64)
        mixed = OPERATIONS[name](batch, each)
        alone = torch.cat([OPERATIONS[name](batch[i : i + 1], each[i : i + 1]) for i in range(24)])
        assert torch.equal(mixed, alone)


def test_the_levels_are_torchvisions() -> None:
    theirs = AutoAugment()._augmentation_space(10, (20, 28))
    for name, levels in magnitudes(20, 28).items():
        values, signed = theirs[name]
        assert levels == pytest.approx(values.tolist(), abs=1e-4) and signed == (name in SIGNED)
    assert set(theirs) - set(magnitudes(20, 28)) == {"AutoContrast", "Equalize", "Invert"}


@pytest.mark.parametrize("name", get_args(PolicyName))
def test_a_sub_policy_is_its_two_operations_in_turn(name) -> None:
    table = AutoAugment(AutoAugmentPolicy(name)).policies
    batch, own = images(), policy(name, 32, 32, CPU)
    levels = magnitudes(32, 32)
    for chosen, pair in enumerate(table):
        for acting in ((0, 0), (0, CHANCES - 1), (CHANCES - 1, 0)):
            draws = torch.tensor([[chosen + len(table), *acting, 2]]).expand(24, -1)  # signs: minus, then plus
            expected = batch
            for step, (op, chance, level) in enumerate(pair):
                magnitude = 0.0 if level is None else levels[op][level]
                sign = -1 if op in SIGNED and step == 0 else 1
                if acting[step] < chance * CHANCES:
                    expected = OPERATIONS[op](expected, torch.full((24,), sign * magnitude, dtype=torch.float64))
            assert torch.equal(own(batch, draws), expected)


def test_an_image_is_changed_alike_in_any_batch() -> None:
    batch, augmentation = images(), Augmentation(policy="cifar10", crop=4, flip=True)
    draws = augmentation.draw(24, 32, 32, torch.Generator().manual_seed(0))
    before = batch.clone()
    whole = augmentation.move(batch, draws)
    assert torch.equal(batch, before)
    parts = torch.cat([augmentation.move(batch[i::2], draws[i::2]) for i in (0, 1)])
    assert torch.equal(parts, torch.cat([whole[0::2], whole[1::2]]))
    assert not torch.equal(whole, Augmentation(crop=4, flip=True).move(batch, draws))


def test_sub_policies_chances_and_signs_are_drawn_evenly() -> None:
    draws = Augmentation(policy="svhn").draw(40_000, 32, 32, torch.Generator().manual_seed(0))[:, POLICY:]
    assert (torch.bincount(draws[:, 0] % 25, minlength=25) / 40_000 - 1 / 25).abs().max() < 0.005
    assert [float((draws[:, 1 + step] < 0.3 * CHANCES).float().mean()) for step in (0, 1)] == pytest.approx(
        [0.3, 0.3], abs=0.01
    )
    assert (torch.bincount(draws[:, 3], minlength=4) / 40_000 - 1 / 4).abs().max() < 0.01


def test_a_batch_is_many_times_as_fast_as_its_images_one_by_one() -> None:
    batch, own, theirs = images(512), policy("cifar10", 32, 32, CPU), AutoAugment(AutoAugmentPolicy.CIFAR10)
    draws = Augmentation(policy="cifar10").draw(512, 32, 32, torch.Generator().manual_seed(0))[:, POLICY:]
    seconds = []
    for run in (lambda: own(batch, draws), lambda: [theirs(image) for image in batch.permute(0, 3, 1, 2)[:64]]):
        run()
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    assert seconds[0] / 512 < seconds[1] / 64 / 2


def test_what_no_policy_takes_is_one_line(dataset) -> None:
    with pytest.raises(UserError, match=r"dataset\.augment\.policy='cifar': did you mean cifar10"):
        Augmentation(policy="cifar")
    with pytest.raises(UserError, match="policy=svhn needs 3 channels, not 1"):
        dataset("digits", "dataset.augment.policy=svhn").prepare()
