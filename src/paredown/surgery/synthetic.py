"""Images made from a network alone: random pixels moved until the inputs of its batch norms have the means and
deviations that it keeps (after ZeroQ; SVD-NAS, supplement S1.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.blueprint import fingerprint
from paredown.plan import digest

TINY = 1e-6  # added to every variance
PLATEAU = {"factor": 0.1, "patience": 100, "min_lr": 1e-4}
Moments = list[tuple[Tensor, Tensor]]  # mean and deviation of each channel, (B, f) each, by batch norm


@dataclass(frozen=True)
class Synthesis:
    """`steps` of Adam on batches of `batch_size` images; `alpha` weighs the images' own mean and deviation, per channel
    0 and 1; `average` takes means over channels, not sums; `excluded` are batch norms left out, by their order."""

    learning_rate: float = 0.5
    alpha: float = 1.0
    average: bool = False
    excluded: tuple[int, ...] = ()
    steps: int = 500
    batch_size: int = 32

    def key(self, module: nn.Module, shape: Sequence[int]) -> str:
        """Names the images of `shape` (channels, height, width) made so from `module`."""
        return digest(["synthetic", asdict(self), fingerprint(module), list(shape)])


def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the pixels of `maps` (B, f, H, W), each (B, f)."""
    correction = min(1, maps[0, 0].numel() - 1)  # a single pixel deviates by nothing
    return maps.mean((2, 3)), (maps.var((2, 3), correction=correction) + TINY).sqrt()


def distance(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], average: bool) -> Tensor:
    """Squared distance of moments (B, f) to `wanted` (f,), summed or averaged over channels, averaged over images."""
    squares = sum((got - target).square() for got, target in zip(found, wanted, strict=True))
    assert isinstance(squares, Tensor)
    return (squares.mean(1) if average else squares.sum(1)).mean()


def norms(module: nn.Module, excluded: Sequence[int] = ()) -> list[nn.BatchNorm2d]:
    """The batch norms of `module` in its order, without those at the places `excluded`."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    return [layer for index, layer in enumerate(found) if index not in excluded]


def targets(layers: Sequence[nn.BatchNorm2d]) -> Moments:
    """The means and deviations that `layers` keep, (f,) each."""
    return [(n.running_mean.detach(), (n.running_var.detach() + TINY).sqrt()) for n in layers]  # type: ignore[union-attr]


@contextmanager
def recording(layers: Sequence[nn.BatchNorm2d]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """The moments of what goes into each of `layers`, by its number, in the passes made within."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def note(number: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[number] = moments(inputs[0])

        return hook

    handles = [layer.register_forward_pre_hook(note(number)) for number, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def batch_norm_loss(module: nn.Module, images: Tensor, how: Synthesis) -> Tensor:
    """l_bn of `images` (B, C, H, W): the distances at all batch norms, plus `alpha` times that of the images."""
    layers = norms(module, how.excluded)
    with recording(layers) as found:
        module(images)
    inner = [distance(found[n], wanted, how.average) for n, wanted in enumerate(targets(layers)) if n in found]
    plain = (images.new_zeros(images.shape[1]), images.new_ones(images.shape[1]))
    return torch.stack(inner).sum() + how.alpha * distance(moments(images), plain, how.average)


def start(count: int, shape: Sequence[int], seed: int) -> Tensor:
    """Random images (count, C, H, W), as the released code draws them."""
    pixels = torch.randint(0, 255, (count, *shape), generator=torch.Generator().manual_seed(seed))
    return (pixels.float() - 127.5) / 5418.75


def synthesise(
    module: nn.Module, shape: Sequence[int], how: Synthesis, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, list[float]]:
    """A batch of images (B, C, H, W), the classes (B,) that `module` sees in them, and l_bn at every step. `module`
    must be in eval mode, on `device`, and its parameters frozen."""
    images = start(how.batch_size, shape, seed).to(device).requires_grad_()
    optimizer = torch.optim.Adam([images], how.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **PLATEAU)  # type: ignore[arg-type]
    losses = []
    for _ in range(how.steps):
        optimizer.zero_grad()
        loss = batch_norm_loss(module, images, how)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        schedule.step(losses[-1])
    made = images.detach()
    with torch.no_grad():
        return made.cpu(), module(made).argmax(1).cpu(), losses


@dataclass(frozen=True)
class ImageStore:
    """Synthetic images in `folder`, float32 as published (8 bits distil worse), a safetensors file for each batch."""

    folder: Path

    def file(self, number: int) -> Path:
        """Where batch `number` lies, or will lie."""
        return self.folder / f"{number:05d}.safetensors"

    def write(self, number: int, images: Tensor, labels: Tensor, losses: Sequence[float]) -> None:
        """Keep a batch and its l_bn at every step; it appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.file(number).with_suffix(".unfinished")
        save_file({"images": images.contiguous(), "labels": labels, "losses": torch.tensor(losses)}, temporary)
        temporary.replace(self.file(number))

    def read(self, number: int) -> dict[str, Tensor]:
        """Of batch `number` the `images` (B, C, H, W), mapped from the file, `labels` (B,) and `losses`."""
        return load_file(self.file(number))

    def first(self, count: int, batch_size: int) -> SyntheticImages:
        """The first `count` images, of batches of `batch_size`."""
        batches = [self.read(number) for number in range(-(-count // batch_size))]
        images = [image for batch in batches for image in batch["images"]]
        return SyntheticImages(images[:count], torch.cat([batch["labels"] for batch in batches])[:count])


class SyntheticImages:
    """`images` (C, H, W) float32 as a network takes them, one by one since they may be mapped from many files, and
    their `labels` (n,), as a store that a `TrainLoader` reads with nothing left to normalise."""

    def __init__(self, images: Sequence[Tensor], labels: Tensor) -> None:
        self.images, self.labels = images, labels.numpy()
        self.size = (images[0].shape[1], images[0].shape[2])

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `loaders.Images`, but for the images: (b, C, H, W) float32."""
        for rows in batches:
            images = torch.stack([self.images[row] for row in rows.tolist()])
            yield images.to(device), torch.from_numpy(self.labels)[rows].to(device)
