"""Synthetic images: the loss written out, batch norms whose statistics are met, the published constants, the store."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.surgery.synthesise import (
    ImageStore,
    Synthesis,
    batch_norm_loss,
    batch_norms,
    initial_images,
    moments,
    recording,
    running_moments,
    synthesise,
)

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    for norm in batch_norms(module):
        norm.running_mean.normal_(0, 0.5)  # type: ignore[union-attr]
        norm.running_var.uniform_(0.2, 0.8)  # type: ignore[union-attr]
    return module.requires_grad_(False).eval()


def by_hand(module: nn.Module, images: torch.Tensor, alpha: float, average: bool, left_out: tuple[int, ...]) -> float:
    total, x, number = 0.0, images, 0
    for layer in [None, *module]:  # None: the images themselves
        if layer is None or isinstance(layer, nn.BatchNorm2d):
            wanted = (torch.zeros(3), torch.ones(3)) if layer is None else (
                layer.running_mean, (layer.running_var + 1e-6).sqrt()
            )  # fmt: skip
            if layer is None or number not in left_out:
                per_image = [
                    sum(
                        float(image[c].mean() - wanted[0][c]) ** 2
                        + float((image[c].var() + 1e-6).sqrt() - wanted[1][c]) ** 2
                        for c in range(len(image))
                    )
                    / (len(image) if average else 1)
                    for image in x
                ]
                total += (alpha if layer is None else 1) * sum(per_image) / len(per_image)
            number += layer is not None
        x = layer(x) if layer else x
    return total


@pytest.mark.parametrize(("alpha", "average", "excluded"), [(1.0, False, ()), (100.0, True, (1,)), (0.0, True, (0,))])
def test_the_loss_written_out(alpha, average, excluded) -> None:
    module, images = network(), torch.randn(3, 3, 9, 9)
    how = Synthesis(alpha=alpha, average=average, excluded=excluded)
    assert float(batch_norm_loss(module, images, how)) == pytest.approx(
        by_hand(module, images, alpha, average, excluded), rel=1e-5
    )


def test_images_move_the_statistics_to_those_kept() -> None:
    module = network().train()
    for norm in batch_norms(module):
        norm.momentum = None
    module(torch.randn(64, 3, 12, 12) + 0.3)  # which statistics are kept of
    module.eval()
    how = Synthesis(steps=150, batch_size=4, learning_rate=0.1, alpha=0.1)

    def gaps(images: torch.Tensor) -> list[float]:
        with recording(layers := batch_norms(module)) as found:
            module(images)
        return [float((found[n][0] - mean).abs().mean()) for n, (mean, _) in enumerate(running_moments(layers))]

    images, labels, losses = synthesise(module, (3, 12, 12), how, 3, CPU)
    assert losses[-1] < 0.2 * losses[0] and len(losses) == 150
    before, after = gaps(initial_images(4, (3, 12, 12), 3)), gaps(images)
    assert all(late < 0.3 * early for early, late in zip(before, after, strict=True))
    assert torch.equal(labels, module(images).argmax(1)) and images.dtype is torch.float32
    again = synthesise(module, (3, 12, 12), how, 3, CPU)[0]
    assert torch.equal(images, again) and not torch.equal(images, synthesise(module, (3, 12, 12), how, 4, CPU)[0])


def test_the_start_is_the_released_codes() -> None:
    images = initial_images(64, (3, 8, 8), 0)
    levels = images * 5418.75 + 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-2) and levels.min() > -0.01 and levels.max() < 254.01
    assert levels.round().unique().numel() == 255


def test_a_single_pixel_has_no_deviation() -> None:
    mean, deviation = moments(torch.ones(2, 3, 1, 1))
    assert torch.equal(mean, torch.ones(2, 3)) and torch.allclose(deviation, torch.full((2, 3), 1e-3))


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("mobilenet_v2", 52), ("efficientnet_b0", 49)])
def test_the_published_counts_of_batch_norms(name, count) -> None:
    module = blueprint.create({"_target_": f"paredown.models.torchvision.{name}"}, (3, 32, 32)).module
    assert len(batch_norms(module)) == count


def test_the_key_is_the_weights_and_the_settings(tmp_path) -> None:
    one, other = network(), network()
    how = Synthesis()
    assert how.key(one, (3, 8, 8)) == how.key(other, (3, 8, 8))
    batch_norms(other)[0].running_mean += 1  # type: ignore[operator]
    keys = {
        how.key(one, (3, 8, 8)),
        how.key(other, (3, 8, 8)),
        how.key(one, (3, 9, 9)),
        Synthesis(alpha=2).key(one, (3, 8, 8)),
    }
    assert len(keys) == 4


def test_the_first_so_many_of_a_store(tmp_path) -> None:
    store, batches = ImageStore(tmp_path / "a"), torch.randn(3, 4, 3, 2, 2)
    for number, batch in enumerate(batches):
        store.write(number, batch, torch.arange(4) + 10 * number, [1.0, 0.5])
    first = store.first(6, 4)
    assert len(first.images) == 6 and first.labels.tolist() == [0, 1, 2, 3, 10, 11] and first.size == (2, 2)
    (images, labels), _ = first.stream([torch.tensor([5, 0]), torch.tensor([1])], None, torch.device("cpu"))
    assert torch.equal(images, batches.flatten(0, 1)[[5, 0]]) and labels.tolist() == [11, 0]
    assert not list((tmp_path / "a").glob("*.unfinished"))
