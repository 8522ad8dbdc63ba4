"""What tests of methods share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from paredown.core.hooks import Context

CPU = torch.device("cpu")


class RandomImages:
    """Stands for a data module: fixed random images of (3, 8, 8), in float64 as the networks of exact tests are."""

    eval_splits = ("test",)
    sizes = {"train": 96, "test": 96}  # noqa: RUF012

    def __init__(self) -> None:
        self.images = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def train_loader(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, None]]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        yield from ((self.images[rows], None) for rows in order.split(32))

    def eval_loader(self, split: str, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.images, torch.arange(len(self.images)) % 10


@pytest.fixture
def exact() -> Context:
    """A context of random images in float64."""
    return Context(RandomImages(), CPU, seed=7)
