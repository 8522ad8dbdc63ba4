"""Data-free image synthesis: random images optimised until the inputs of a network's batch norms have its running
means and deviations (after ZeroQ; SVD-NAS, supplement S1.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.blueprint import fingerprint
from paredown.core.errors import UserError
from paredown.core.files import MADE_AGAIN, read_tensors, write_tensors
from paredown.core.keys import digest, identity
from paredown.core.modes import hooked
from paredown.core.progress import working_on

EPSILON = 1e-6  # added to every variance
PLATEAU = {"factor": 0.1, "patience": 100, "min_lr": 1e-4}
Moments = list[tuple[Tensor, Tensor]]  # mean and deviation of each channel, (B, f) each, by batch norm


@identity("svd_nas/synthesis")
@dataclass(frozen=True)
class Synthesis:
    """Hyperparameters: `steps` of Adam on batches of `batch_size` images. `alpha` weights the loss on the images'
    moments (mean 0 and deviation 1 per channel); `average` takes means over channels instead of sums; `excluded` are
    the indices of batch norms that are left out."""

    learning_rate: float = 0.5
    alpha: float = 1.0
    average: bool = False
    excluded: tuple[int, ...] = ()
    steps: int = 500
    batch_size: int = 32

    def key(self, module: nn.Module, shape: Sequence[int]) -> str:
        """Return the key of the images of `shape` (channels, height, width) synthesised from `module`."""
        return digest([self, fingerprint(module), list(shape)])


def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the pixels of `maps` (B, f, H, W), each (B, f)."""
    correction = min(1, maps[0, 0].numel() - 1)  # the deviation of a single pixel is 0, not nan
    return maps.mean((2, 3)), (maps.var((2, 3), correction=correction) + EPSILON).sqrt()


def distance(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], average: bool) -> Tensor:
    """Return the squared distance of moments (B, f) to `wanted` (f,), summed or averaged over channels, then averaged
    over images."""
    squares = sum((got - target).square() for got, target in zip(found, wanted, strict=True))
    assert isinstance(squares, Tensor)
    return (squares.mean(1) if average else squares.sum(1)).mean()


def batch_norms(module: nn.Module, excluded: Sequence[int] = ()) -> list[nn.BatchNorm2d]:
    """Return the batch norms of `module` in order of registration, without those at the indices `excluded`."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return [layer for index, layer in enumerate(found) if index not in excluded]


def running_moments(layers: Sequence[nn.BatchNorm2d]) -> Moments:
    """Return the running means and deviations of `layers`, (f,) each."""
    return [(n.running_mean.detach(), (n.running_var.detach() + EPSILON).sqrt()) for n in layers]  # type: ignore[union-attr]


@contextmanager
def recording(layers: Sequence[nn.BatchNorm2d]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Record, inside the context, the moments of the input of each of `layers` by its index."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def note(number: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[number] = moments(inputs[0])

        return hook

    with hooked(layer.register_forward_pre_hook(note(number)) for number, layer in enumerate(layers)):
        yield found


def batch_norm_loss(module: nn.Module, images: Tensor, synthesis: Synthesis) -> Tensor:
    """Return l_bn of `images` (B, C, H, W): the sum of the distances at all batch norms, plus `alpha` times the
    distance of the images' moments from 0 and 1."""
    layers = batch_norms(module, synthesis.excluded)
    with recording(layers) as found:
        module(images)
    inner = [
        distance(found[n], wanted, synthesis.average) for n, wanted in enumerate(running_moments(layers)) if n in found
    ]
    plain = (images.new_zeros(images.shape[1]), images.new_ones(images.shape[1]))
    return torch.stack(inner).sum() + synthesis.alpha * distance(moments(images), plain, synthesis.average)


def initial_images(count: int, shape: Sequence[int], seed: int) -> Tensor:
    """Draw the initial images (count, C, H, W) as the released code does."""
    pixels = torch.randint(0, 255, (count, *shape), generator=torch.Generator().manual_seed(seed))
    return (pixels.float() - 127.5) / 5418.75


def synthesise(
    module: nn.Module, shape: Sequence[int], synthesis: Synthesis, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, list[float]]:
    """Synthesise one batch of images (B, C, H, W); return them, the classes (B,) that `module` predicts for them, and
    l_bn at every step. `module` must be in eval mode, on `device`, with frozen parameters."""
    images = initial_images(synthesis.batch_size, shape, seed).to(device).requires_grad_()
    optimizer = torch.optim.Adam([images], synthesis.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)  # type: ignore[arg-type]
    losses = []
    with working_on("batch", synthesis.steps) as work:
        for _ in range(synthesis.steps):
            optimizer.zero_grad()
            loss = batch_norm_loss(module, images, synthesis)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            schedule.step(losses[-1])
            work.advance()
    made = images.detach()
    with torch.no_grad():
        return made.cpu(), module(made).argmax(1).cpu(), losses


@dataclass(frozen=True)
class ImageStore:
    """Synthetic images in `folder`, one safetensors file per batch. They are float32 as published: 8-bit images distil
    worse."""

    folder: Path

    def file(self, number: int) -> Path:
        """Return the path of batch `number`, which may not exist yet."""
        return self.folder / f"{number:05d}.safetensors"

    def write(self, number: int, images: Tensor, labels: Tensor, losses: Sequence[float]) -> None:
        """Write a batch and its l_bn at every step atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = {"images": images.contiguous(), "labels": labels, "losses": torch.tensor(losses)}
        write_tensors(self.file(number), made)

    def read(self, number: int) -> dict[str, Tensor]:
        """Return `images` (B, C, H, W), memory-mapped, `labels` (B,) and `losses` of batch `number`."""
        found = read_tensors(self.file(number), MADE_AGAIN)
        if found.keys() != {"images", "labels", "losses"}:
            raise UserError(f"{self.file(number)} holds no synthetic images ({MADE_AGAIN})")
        return found

    def first(self, count: int, batch_size: int) -> SyntheticImages:
        """Return the first `count` images, stored in batches of `batch_size`."""
        batches = [self.read(number) for number in range(-(-count // batch_size))]
        images = [image for batch in batches for image in batch["images"]]
        return SyntheticImages(images[:count], torch.cat([batch["labels"] for batch in batches])[:count])


class SyntheticImages:
    """Normalised float32 `images` (C, H, W), in a list because they may be mapped from many files, and their `labels`
    (n,), as a source of images for a `TrainLoader`."""

    def __init__(self, images: Sequence[Tensor], labels: Tensor) -> None:
        self.images, self.labels = images, labels.numpy()
        self.size = self.scaled = (images[0].shape[1], images[0].shape[2])

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as `loaders.Images` does, with images (b, C, H, W) in float32."""
        for rows in batches:
            images = torch.stack([self.images[row] for row in rows.tolist()])
            yield images.to(device), torch.from_numpy(self.labels)[rows].to(device)
