"""Distilling a low-rank network from the dense one it was made of (SVD-NAS, supplement S1.4; losses as in its code):
layer by layer on synthetic images, or with labels on few or all training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.data.augment import Augmentation
from paredown.data.loaders import TrainLoader
from paredown.errors import UserError
from paredown.layers.taught import taught, teacher
from paredown.plan import Context, Hooks
from paredown.surgery.synthetic import ImageStore, Synthesis, SyntheticImages

Setup = Literal["synthetic", "few_sample", "full"]
SOFT, HEAT = 0.95, 6.0  # of few-sample training: the teacher's share of the loss, and the temperature
LAST = 0.1  # the second learning rate, of the first; when it no longer helps, the training ends


@dataclass
class _Now:
    """The dense network, the images, and what a step's passes put out, by layer."""

    teacher: nn.Module | None = None
    images: SyntheticImages | None = None
    outputs: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {"student": {}, "teacher": {}})


@dataclass(frozen=True)
class Distillation(Hooks):
    """Train the low-rank layers alone on `images` synthetic ones (made as `synthesis` says), or all on
    `images` training ones (full: on all). The learning rate falls to a tenth, and then the training ends, when the
    validation top-1 has not risen for `patience` epochs; the weights of the best epoch are kept, or those before the
    first where no epoch is better."""

    setup: Setup
    images: int | None
    patience: int
    synthesis: Synthesis
    keeps_best: bool = True
    _now: _Now = field(default_factory=_Now, init=False, repr=False, compare=False)

    def start(self, network: nn.Module, context: Context) -> None:
        """Make the teacher, listen to both networks; on synthetic images freeze all but the low-rank weights."""
        now = self._now
        if self.setup != "full":
            now.teacher = teacher(network)
            for role, module in (("student", network), ("teacher", now.teacher)):
                for name in taught(network):
                    module.get_submodule(name).register_forward_hook(self._listen(role, name))
        if self.setup != "synthetic":
            return
        network.requires_grad_(False).eval()
        for layer in taught(network).values():
            for name, parameter in layer.student.named_parameters():
                parameter.requires_grad_(name.endswith("weight"))
        assert now.teacher is not None and self.images is not None
        folder = images_of(now.teacher, context, self.synthesis)
        now.images = folder.first(self.images, self.synthesis.batch_size)

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """Synthetic images, or few of the training images; on all, the usual."""
        if self._now.images is not None:
            return TrainLoader(
                self._now.images,
                np.arange(len(self._now.images.labels)),
                Augmentation(),
                nn.Identity(),
                batch_size=batch_size,
                seed=seed,
                least=1,  # since batch norm rests
                **place,
            )
        if self.setup == "few_sample":
            return data.chosen_loader("train", batch_size, seed, **place, images=self.images, augmented=True)
        return None

    def loss(self, network: nn.Module, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """The layers' squared errors; few-sample training adds the soft targets and keeps a part of `loss`."""
        now = self._now
        if now.teacher is None:
            return loss
        with torch.no_grad():
            wanted = now.teacher.to(images.device)(images)
        total = layer_errors(now.outputs["student"], now.outputs["teacher"])
        now.outputs["student"].clear()
        now.outputs["teacher"].clear()
        if self.setup == "synthetic":
            return total
        return total + SOFT * soft_loss(logits, wanted, HEAT) + (1 - SOFT) * loss

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """How many images were seen, where they are not the training images."""
        return {} if self.setup == "full" else {"images": float(self.images or 0)}

    def rate(self, history: Sequence[Mapping[str, float]]) -> float:
        """1, then 0.1, then 0: the end."""
        return plateau([row["val/top1"] for row in history], self.patience)

    def _listen(self, role: str, name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if role == "teacher" or torch.is_grad_enabled():  # not what validation puts out
                self._now.outputs[role][name] = output

        return hook


def layer_errors(student: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """The sum over layers of the mean squared difference of their outputs."""
    return torch.stack([functional.mse_loss(student[name], wanted[name]) for name in wanted]).sum()


def soft_loss(logits: Tensor, wanted: Tensor, heat: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, mean over images."""
    ours, theirs = ((values / heat).log_softmax(1) for values in (logits, wanted))
    return heat**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def plateau(accuracies: Sequence[float], patience: int) -> float:
    """The learning rate after epochs of these `accuracies`, as a fraction of the first: 1; 0.1 once `patience` epochs
    in a row brought no new best; 0 the second time. What the training began with does not count: one that still rises
    from a bad first epoch goes on."""
    best, waited, factor = float("-inf"), 0, 1.0
    for accuracy in accuracies:
        waited = 0 if accuracy > best else waited + 1
        best = max(best, accuracy)
        if waited >= patience:
            waited, factor = 0, LAST if factor == 1 else 0.0
    return factor


def images_of(module: nn.Module, context: Context, synthesis: Synthesis) -> ImageStore:
    """Where the images made from the dense `module` lie, or will lie: one place for all experiments that use them."""
    if context.shared is None:
        raise UserError("synthetic images need a store to lie in")
    return ImageStore(context.shared / f"synthetic-{synthesis.key(module, context.data.input_shape)}")
