"""Channel labels: int64 tensors of the activations' shapes that hold, at each position, the number of its channel.

Label 0 is of what must stay (image, logits, what cannot be followed). The sign says what is there once the channel is
removed: a positive label a zero, a negative one another constant (sigmoid(0) = 0.5), which nothing may read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Axis = Literal["in", "out"]  # of a layer
FIXED = 0


class Labels:
    """Fresh labels, and which of them must go or stay together: a union-find over their magnitudes."""

    def __init__(self) -> None:
        self.count = 1
        self.summed: list[Tensor] = []  # labels of tensors that were added to others
        self.reasons: dict[str, None] = {}
        self._edges: list[Tensor] = []

    def fresh(self, number: int) -> Tensor:
        """Return so many new labels (number,)."""
        self.count += number
        return torch.arange(self.count - number, self.count)

    def join(self, first: Tensor, second: Tensor) -> None:
        """Join the labels of two tensors position by position."""
        pairs = torch.stack([tensor.flatten() for tensor in _same_strides(first, second)]).abs()
        self._edges.append(pairs[:, pairs[0] != pairs[1]])

    def join_along(self, labels: Tensor, dim: int) -> Tensor:
        """Join the labels along `dim`, which must stay of its size, and return those of its first position."""
        first = labels.narrow(dim, 0, 1)
        if varies(labels, dim):
            self.join(labels, first.expand_as(labels))
        return first.squeeze(dim)

    def pooled(self, labels: Tensor, dims: int, shape: Iterable[int]) -> Tensor:
        """Return the labels of what reduces or repeats the last `dims` dimensions to `shape`."""
        for dim in range(labels.dim() - dims, labels.dim()):
            labels = self.join_along(labels, dim).unsqueeze(dim)
        return labels.expand(tuple(shape))

    def keep_sizes(self, labels: Tensor, written: Mapping[int, int]) -> Tensor:
        """Join the channels along each dimension whose size is `written` as a number: it stays so."""
        for dim, size in written.items():
            if size > 1:
                self.join_along(labels, dim)
        return labels

    def fix(self, labels: Tensor, reason: str = "") -> None:
        """Let the channels of `labels` stay, for a `reason` that is kept unless they must stay anyway."""
        few = distinct(labels)
        if reason and bool(few.any()):
            self.reasons.setdefault(reason)
        self.join(few, torch.zeros_like(few))

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """Return the labels (n,) of the channels along `dim`, joined over all other dimensions."""
        dim %= labels.dim()
        for other in reversed(range(labels.dim())):
            if other != dim:
                labels = self.join_along(labels, other)
                dim -= other < dim
        return labels

    def roots(self) -> Tensor:
        """Return the smallest label joined with each label (count,)."""
        parents = list(range(self.count))

        def find(label: int) -> int:
            while parents[label] != label:
                parents[label] = label = parents[parents[label]]
            return label

        for first, second in self._pairs():
            low, high = sorted((find(first), find(second)))
            parents[high] = low
        return torch.tensor([find(label) for label in range(self.count)])

    def _pairs(self) -> Iterable[list[int]]:
        if not self._edges:
            return []
        first, second = torch.cat(self._edges, dim=1)
        codes = torch.unique(first * self.count + second)
        return torch.stack([codes // self.count, codes % self.count], dim=1).tolist()


def varies(labels: Tensor, dim: int) -> bool:
    """Return whether labels differ along `dim`."""
    few = distinct(labels)
    return bool((few != few.narrow(dim, 0, 1)).any())


def on_map(labels: Tensor, shape: Iterable[int], dim: int = 1) -> Tensor:
    """Return the labels (n,) of channels along `dim` at all positions of `shape`, without a copy."""
    sizes = tuple(shape)
    return labels.view([-1 if d == dim % len(sizes) else 1 for d in range(len(sizes))]).expand(sizes)


def signed(labels: Tensor, zero: bool) -> Tensor:
    """Return the labels after a function that maps zero to zero, or not."""
    return labels if zero else -labels.abs()


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        return tensors_in(list(values.values()))
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, tuple | list) else []


def distinct(labels: Tensor) -> Tensor:
    """Return one position of each dimension along which `labels` is expanded."""
    for dim, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _same_strides(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors at one position of each dimension along which both are expanded."""
    for dim in range(first.dim()):
        if first.shape[dim] > 1 and first.stride(dim) == 0 == second.stride(dim):
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    return first, second
