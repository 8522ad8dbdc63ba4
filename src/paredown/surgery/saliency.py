"""Saliencies: a score of each weight of a network's convolutions and linear layers, by layer name.

The functions are pure and take any module; the dataclasses name one with its hyperparameters for a stage's key.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paredown.core.constraints import Checked, Count, Positive
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.progress import passed
from paredown.layers.masked import maskable

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) and labels (B,)
Scores = dict[str, Tensor]  # of the weights' shapes
Mode = Literal["train", "eval"]
BATCH_NORMS = nn.modules.batchnorm._BatchNorm  # no public name is common to all of torch's


def magnitude(model: nn.Module) -> Scores:
    """Return |w| of each weight."""
    return {name: weight.detach().abs() for name, weight in weights_of(model).items()}


def snip(model: nn.Module, batches: Iterable[Batch]) -> Scores:
    """Compute |w dL/dw| of each weight, L the mean cross-entropy over the images of `batches` (Lee et al. 2019)."""
    weights = weights_of(model)
    sums, images = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for inputs, labels in batches:
        loss = cross_entropy(model(inputs), labels, reduction="sum")
        for name, gradient in zip(sums, _gradients(loss, list(weights.values())), strict=True):
            sums[name] += gradient
        images += len(labels)
    return {name: (weight.detach() * sums[name] / images).abs() for name, weight in weights.items()}


def grasp(model: nn.Module, batches: Iterable[Batch], temperature: float = 1.0) -> Scores:
    """Compute -w (H g) of each weight: g sums the gradients of the batches' mean cross-entropies at logits divided by
    `temperature`, H their Hessians (Wang et al. 2020). The largest are to be removed. `batches` are gone through twice.
    """
    weights = weights_of(model)
    parameters = list(weights.values())
    g = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        g = _added(g, _gradients(_loss(model, batch, temperature), parameters))
    product = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        gradients = _gradients(_loss(model, batch, temperature), parameters, twice=True)
        inner = torch.stack([(a * b).sum() for a, b in zip(g, gradients, strict=True)]).sum()
        product = _added(product, _gradients(inner, parameters))
    return {name: -weight.detach() * h for (name, weight), h in zip(weights.items(), product, strict=True)}


def synflow(model: nn.Module, input_shape: Sequence[int]) -> Scores:
    """Compute w dR/dw of each weight of |`model`|, R the sum of its outputs for one image of ones (Tanaka et al. 2020),
    in float64 on a copy in eval mode: float32 overflows on a wide ResNet-32. Batch norms keep |gamma| and their
    variance alone, so that R is positive."""
    positive = copy.deepcopy(model).double().eval()
    for parameter in positive.parameters():
        parameter.data.abs_()
    for layer in positive.modules():
        if isinstance(layer, BATCH_NORMS):
            for shift in (layer.bias, layer.running_mean):
                if shift is not None:
                    shift.data.zero_()
    weights = weights_of(positive)
    parameters = list(weights.values())
    flow = positive(torch.ones(1, *input_shape, dtype=torch.float64, device=parameters[0].device)).sum()
    gradients = _gradients(flow, parameters)
    return {name: w.detach() * gradient for (name, w), gradient in zip(weights.items(), gradients, strict=True)}


def weights_of(model: nn.Module) -> dict[str, Any]:
    """Return the weight of each layer that can be masked, by the layer's name."""
    return {name: layer.weight for name, layer in maskable(model).items()}


def _gradients(value: Tensor, parameters: Sequence[Tensor], *, twice: bool = False) -> tuple[Tensor, ...]:
    """Return the gradients of `value`, of which there are others where it is to be derived `twice`; zeros for a
    parameter that it does not depend on, as that of a classifier that is for training alone."""
    return torch.autograd.grad(value, parameters, create_graph=twice, materialize_grads=True)


def _loss(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    images, labels = batch
    return cross_entropy(model(images) / temperature, labels)


def _added(sums: Sequence[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    return [total + value.detach() for total, value in zip(sums, more, strict=True)]


class Saliency(Checked, ABC):
    """A saliency with its hyperparameters: `scores` of a network whose largest are to be kept."""

    section = "method"

    @abstractmethod
    def scores(self, network: Network, context: Context) -> Scores:
        """Compute the scores on `context.device`, from a copy of the network."""

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for more images than the opened `data` has, and for layers that cannot be scored."""

    def images_of(self, data: Any) -> int:
        """Return how many images of `data` a scoring takes."""
        return 0


@identity("saliency/magnitude")
@dataclass(frozen=True)
class Magnitude(Saliency):
    """The magnitude of a weight."""

    def scores(self, network: Network, context: Context) -> Scores:
        """Return |w|."""
        return magnitude(network.module)


@dataclass(frozen=True)
class OfImages(Saliency):
    """A saliency of `draws` samples of `per_class` training images of each class, augmented as in training, in batches
    of `chunk` images (None: a sample), with batch norms in the mode `batch_norm`, in float32."""

    per_class: Count = 10
    draws: Count = 1
    chunk: Count | None = None
    batch_norm: Mode = "train"

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError naming a class that has fewer images than a sample takes."""
        data.balanced("train", self.per_class, 1, 0, "cpu")

    def images_of(self, data: Any) -> int:
        """Return the images of all samples."""
        return self.draws * self.per_class * len(data.class_names)

    def batch(self, classes: int) -> int | None:
        """Return the size of a batch of a sample of so many classes; None: one batch."""
        return self.chunk

    def batches(self, context: Context) -> Iterable[Batch]:
        """Return the images, which follow from the stage's seed; they are made anew whenever one goes through them."""
        return _Balanced(self, context)

    def copied(self, network: Network, context: Context) -> nn.Module:
        """Return the copy that is scored: its batch norms keep their statistics to themselves."""
        model = copy.deepcopy(network.module).to(context.device).float()
        return model.train(self.batch_norm == "train")


@dataclass(frozen=True)
class _Balanced:
    """The batches of a saliency: ImageNet's would not all fit into memory."""

    of: OfImages
    context: Context

    def __iter__(self) -> Iterator[Batch]:
        of, context = self.of, self.context
        chunk, place = of.batch(len(context.data.class_names)), (context.seed, context.device)
        batches = context.data.balanced("train", of.per_class, of.draws, *place, chunk=chunk)
        for images, labels in passed(batches, "scoring"):
            yield images.float(), labels


@identity("saliency/snip")
@dataclass(frozen=True)
class SNIP(OfImages):
    """The connection sensitivity of Lee et al. (2019)."""

    def scores(self, network: Network, context: Context) -> Scores:
        """Compute |w dL/dw|."""
        return snip(self.copied(network, context), self.batches(context))


@identity("saliency/grasp")
@dataclass(frozen=True)
class GraSP(OfImages):
    """The gradient signal of Wang et al. (2020): `classifier` xavier scores linear layers with fresh weights, as the
    authors do; `order` highest removes the weights of the largest -w (H g), smallest_magnitude those nearest to 0."""

    temperature: Positive = 200.0
    classifier: Literal["xavier", "own"] = "xavier"
    order: Literal["highest", "smallest_magnitude"] = "highest"

    def batch(self, classes: int) -> int:
        """Return `chunk`, or the half of a sample."""
        return self.chunk or math.ceil(self.per_class * classes / 2)

    def scores(self, network: Network, context: Context) -> Scores:
        """Compute w (H g), or its magnitude: what is to be kept is largest."""
        model = self.copied(network, context)
        if self.classifier == "xavier":
            _draw_classifiers(model, context.seed)
        found = grasp(model, self.batches(context), self.temperature)
        if self.order == "highest":
            return {name: -values for name, values in found.items()}
        return {name: values.abs() for name, values in found.items()}


@identity("saliency/synflow")
@dataclass(frozen=True)
class SynFlow(Saliency):
    """The synaptic flow of Tanaka et al. (2020), without data."""

    def scores(self, network: Network, context: Context) -> Scores:
        """Compute w dR/dw."""
        return synflow(copy.deepcopy(network.module).to(context.device), network.input_shape)


def _draw_classifiers(model: nn.Module, seed: int) -> None:
    """Draw the weights of all linear layers anew, xavier-normal, on the CPU: equal on every device."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            drawn = nn.init.xavier_normal_(torch.empty(layer.weight.shape), generator=generator)
            layer.weight.data.copy_(drawn)
