"""Saliencies of second order: weights scored by the diagonal or the Kronecker factors of the Fisher matrix.

The functions are pure and take any module of convolutions and linear layers; the dataclasses name one with its
hyperparameters for a stage's key.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.constraints import Count, Positive
from paredown.core.distributed import rank, started, total
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.modes import evaluating, hooked
from paredown.core.network import Network
from paredown.core.progress import passed
from paredown.layers.masked import MaskedConv2d, MaskedLinear, maskable
from paredown.surgery.saliency import Batch, Saliency, Scores, weights_of
from paredown.surgery.sampling import patches

Labels = Literal["sampled", "expected", "given"]
Factors = tuple[Tensor, Tensor]  # of a layer: A (groups, p, p) of its inputs, G (groups, n, n) of its outputs
Share = tuple[int, int]  # (r, n): of the batches every n-th from the r-th on
WHOLE: Share = (0, 1)
Pair = tuple[Tensor, Tensor]  # inputs (B, groups, p, S) and output gradients (B, groups, n, S) at S positions


def obd(
    model: nn.Module, batches: Iterable[Batch], labels: Labels = "sampled", seed: int = 0, share: Share = WHOLE
) -> Scores:
    """Compute w^2 F / 2 of each weight, F the Fisher matrix's diagonal: the loss that its removal costs to second order
    (LeCun et al. 1990)."""
    diagonal = fisher_diagonal(model, batches, labels, seed, share)
    return {name: weight.detach().square() * diagonal[name] / 2 for name, weight in weights_of(model).items()}


def mlprune(
    model: nn.Module,
    batches: Iterable[Batch],
    labels: Labels = "sampled",
    damping: float = 5e-3,
    seed: int = 0,
    share: Share = WHOLE,
) -> Scores:
    """Compute w^2 / (2 [G^-1]_ii [A^-1]_jj) of each weight, A and G the Kronecker factors of its layer's Fisher matrix:
    the loss that its removal costs once the layer's other weights make up for it (Zeng and Urtasun 2018)."""
    factors = kronecker_factors(model, batches, labels, seed, share)
    return {name: kronecker_scores(w.detach(), *factors[name], damping) for name, w in weights_of(model).items()}


def fisher_diagonal(
    model: nn.Module, batches: Iterable[Batch], labels: Labels = "sampled", seed: int = 0, share: Share = WHOLE
) -> Scores:
    """Compute E[(d log p(y | x) / dw)^2] of each weight, over the images x of `batches` and labels y that are `sampled`
    from the model's softmax (by `seed` and the image's index), all of them (`expected`), or the images' own (`given`).
    Of several processes each computes its `share` of the batches, and the sums are added up."""
    sums, images = {name: torch.zeros_like(weight) for name, weight in weights_of(model).items()}, 0
    for size, layers in _responses(model, batches, labels, seed, share):
        images += size
        for name, (inputs, gradients) in layers:
            sums[name] += _squares(inputs, gradients).reshape(sums[name].shape)
    return {name: total(values) / images for name, values in sums.items()}


def kronecker_factors(
    model: nn.Module, batches: Iterable[Batch], labels: Labels = "sampled", seed: int = 0, share: Share = WHOLE
) -> dict[str, Factors]:
    """Compute K-FAC's factors of each layer (Martens and Grosse 2015; Grosse and Martens 2016), means over the images
    of `batches`; `labels` and `share` are as of `fisher_diagonal`. A bias is an input of ones, the last row of A."""
    images, layers = 0, maskable(model)
    sums = {name: _no_factors(layer) for name, layer in layers.items()}
    for size, found in _responses(model, batches, labels, seed, share):
        images += size
        for name, (inputs, gradients) in found:
            a, g = sums[name]
            positions = inputs.shape[-1]
            if size:  # once, however many labels an image has
                ones = inputs.new_ones(*inputs.shape[:2], a.shape[1] - inputs.shape[2], positions)
                a += _outer(torch.cat([inputs, ones], dim=2)) / positions**2
            g += _outer(gradients) * positions
    return {name: (total(a) / images, total(g) / images) for name, (a, g) in sums.items()}


def kronecker_scores(weight: Tensor, a: Tensor, g: Tensor, damping: float) -> Tensor:
    """Compute the scores of `weight`, whose rows are the groups' outputs one after the other, from the factors `a` and
    `g`, to whose diagonals `damping` is added. Raise UserError where that leaves them singular."""
    groups, inputs = len(a), weight[0].numel()
    across = torch.stack([_inverse_diagonal(factor, damping)[:inputs] for factor in a])
    down = torch.stack([_inverse_diagonal(factor, damping) for factor in g])
    squares = weight.double().square().reshape(groups, -1, inputs)
    scores = squares / (2 * down[:, :, None] * across[:, None, :])
    return scores.reshape(weight.shape).to(weight.dtype)


def require_curvature(model: nn.Module) -> None:
    """Raise UserError for a layer that may be masked but has no curvature here: a locally connected one."""
    known = (nn.Conv2d, nn.Linear, MaskedConv2d, MaskedLinear)
    for name, layer in maskable(model).items():
        if type(layer) not in known:
            kind = type(layer).__name__
            raise UserError(
                f"curvature is known of convolutions and linear layers: {name} is a {kind}; prune it by"
                " method=magnitude, snip or grasp"
            )


def _inverse_diagonal(factor: Tensor, damping: float) -> Tensor:
    """Compute the diagonal of the inverse of `factor` (m, m) + `damping`, in float64."""
    damped = factor.double() + damping * torch.eye(len(factor), dtype=torch.float64, device=factor.device)
    root, failed = torch.linalg.cholesky_ex(damped)
    if failed or not root.isfinite().all():
        raise UserError(f"a Kronecker factor is singular: take a larger method.damping than {damping:g}")
    return torch.cholesky_inverse(root).diagonal()


def _squares(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Sum over images the squares of the gradients of a layer's weights, (groups, n, p)."""
    if inputs.shape[-1] == 1:
        return torch.einsum("bgn,bgp->gnp", gradients[..., 0].square(), inputs[..., 0].square())
    return (gradients @ inputs.transpose(2, 3)).square().sum(0)


def _no_factors(layer: Any) -> Factors:
    """Return factors of zeros for the weights of `layer`."""
    groups = getattr(layer, "groups", 1)
    sides = (layer.weight[0].numel() + (layer.bias is not None), len(layer.weight) // groups)
    a, g = (layer.weight.new_zeros(groups, side, side) for side in sides)
    return a, g


def _outer(vectors: Tensor) -> Tensor:
    """Sum the outer products of `vectors` (B, groups, m, S) with themselves, (groups, m, m)."""
    rows = vectors.permute(1, 2, 0, 3).flatten(2)
    return rows @ rows.transpose(1, 2)


def _responses(
    model: nn.Module, batches: Iterable[Batch], labels: Labels, seed: int, share: Share
) -> Iterator[tuple[int, Iterator[tuple[str, Pair]]]]:
    """Yield for each batch and choice of labels the number of new images and each layer's inputs and gradients of the
    summed cross-entropy. Raise UserError for a layer that the model does not call."""
    require_curvature(model)
    generator = torch.Generator().manual_seed(seed)
    for number, (images, true) in enumerate(batches):
        draws = torch.rand(len(images), dtype=torch.float64, generator=generator)  # also for the others' shares
        if number % share[1] != share[0]:
            yield len(images), iter(())
            continue
        logits, inputs, outputs = _recorded(model, images)
        size = len(images)
        for wanted, weights in _choices(logits, true, draws, labels):
            loss = functional.cross_entropy(logits, wanted, reduction="none")
            flat = [output for calls in outputs.values() for output in calls]
            gradients = iter(torch.autograd.grad((loss * weights.sqrt()).sum(), flat, retain_graph=True))
            back = {name: [next(gradients) for _ in calls] for name, calls in outputs.items()}
            yield size, _pairs(model, inputs, back)
            size = 0


def _choices(logits: Tensor, true: Tensor, draws: Tensor, labels: Labels) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield labels (B,) and the weights (B,) of the squares that they lead to."""
    odds = logits.detach().softmax(1)
    if labels == "expected":
        for label in range(odds.shape[1]):
            yield torch.full_like(true, label), odds[:, label]
        return
    if labels == "sampled":
        steps = odds.double().cumsum(1)
        below = steps < draws.to(steps)[:, None] * steps[:, -1:]
        true = below.sum(1).to(true)
    yield true, torch.ones_like(odds[:, 0])


def _recorded(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Return the logits of `images`, and the inputs and outputs of each layer's calls."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in maskable(model)}
    outputs: dict[str, list[Tensor]] = {name: [] for name in inputs}

    def hook(name: str) -> Any:
        def keep(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name].append(given[0].detach())
            outputs[name].append(output)
            return output.clone()  # what follows may work in place, and the gradient is of the layer's output

        return keep

    handles = (layer.register_forward_hook(hook(name)) for name, layer in maskable(model).items())
    with hooked(handles), torch.enable_grad():
        logits = model(images)
    if idle := [name for name, calls in outputs.items() if not calls]:
        raise UserError(f"curvature needs a layer's outputs: {idle[0]} is not called by itself")
    return logits, inputs, outputs


def _pairs(
    model: nn.Module, inputs: dict[str, list[Tensor]], back: dict[str, list[Tensor]]
) -> Iterator[tuple[str, Pair]]:
    """Yield each layer's inputs and gradients; calls of one layer are positions of one."""
    for name, layer in maskable(model).items():
        calls = [_pair(layer, given, g) for given, g in zip(inputs[name], back[name], strict=True)]
        yield name, (torch.cat([a for a, _ in calls], dim=3), torch.cat([g for _, g in calls], dim=3))


def _pair(layer: nn.Module, given: Tensor, gradient: Tensor) -> Pair:
    """Return the inputs (B, groups, p, S) of the weights of `layer` and the gradients (B, groups, n, S)."""
    if isinstance(layer, nn.Conv2d):
        met = patches(layer, given, gradient).flatten(2)
        return met.unflatten(1, (layer.groups, -1)), gradient.flatten(2).unflatten(1, (layer.groups, -1))
    inputs, gradients = (x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)[:, None] for x in (given, gradient))
    return inputs, gradients


@dataclass(frozen=True)
class OfCurvature(Saliency):
    """A saliency of `images` training images drawn at random (None: of all), without augmentation, in batches of
    `chunk`, in eval mode and float32, with the `labels` of the Fisher matrix."""

    images: Count | None = None
    chunk: Count = 32
    labels: Labels = "sampled"

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for more images than the training has, and for a network without curvature, or with a layer
        whose outputs a run on one image does not show."""
        require_curvature(network.module)
        with evaluating(network.module):
            _recorded(network.module, torch.zeros(1, *network.input_shape))
        if self.images is not None and self.images > data.sizes["train"]:
            raise UserError(f"method.images={self.images} is more than the {data.sizes['train']} training images")

    def images_of(self, data: Any) -> int:
        """Return `images`, or those of the training."""
        return int(data.sizes["train"]) if self.images is None else self.images

    def batches(self, context: Context) -> Iterator[Batch]:
        """Return the images, in an order that is fixed."""
        loader = context.data.eval_loader("train", self.chunk, context.device, images=self.images)
        return ((images.float(), labels) for images, labels in passed(loader, "scoring"))

    def copied(self, network: Network, context: Context) -> nn.Module:
        """Return the copy that is scored."""
        return copy.deepcopy(network.module).to(context.device).float().eval()


@identity("saliency/obd")
@dataclass(frozen=True)
class OBD(OfCurvature):
    """Optimal brain damage (LeCun, Denker and Solla 1990), with the Fisher matrix's diagonal for the Hessian's."""

    def scores(self, network: Network, context: Context) -> Scores:
        """Compute w^2 F / 2."""
        share = (rank(), started())
        return obd(self.copied(network, context), self.batches(context), self.labels, context.seed, share)


@identity("saliency/mlprune")
@dataclass(frozen=True)
class MLPrune(OfCurvature):
    """MLPrune (Zeng and Urtasun 2018); `damping` is added to the diagonals of both Kronecker factors."""

    damping: Positive = 5e-3

    def scores(self, network: Network, context: Context) -> Scores:
        """Compute w^2 / (2 [G^-1]_ii [A^-1]_jj)."""
        model, batches, share = self.copied(network, context), self.batches(context), (rank(), started())
        return mlprune(model, batches, self.labels, self.damping, context.seed, share)
