"""Distillation of a low-rank network from the dense one it was made of (SVD-NAS, supplement S1.4; losses as in its
code): layer by layer on synthetic images, or with labels on few or all training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.deploy import compressed_layers
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.data.augment.pipeline import Augmentation
from paredown.data.loaders import TrainLoader
from paredown.surgery.synthesise import ImageStore, Synthesis, SyntheticImages

Setup = Literal["synthetic", "few_sample", "full"]
SOFT, TEMPERATURE = 0.95, 6.0  # of few-sample training: the teacher's share of the loss, and the temperature
LAST = 0.1  # the second learning rate, of the first; when it no longer helps, the training ends


@identity("svd_nas/distillation")
@dataclass
class Distillation(Hooks):
    """Training of the low-rank layers alone on `images` synthetic ones (made as `synthesis` says), or of all layers on
    `images` training ones (full: on all), after the network that the stage `teacher` left (None: the plan's start).

    The learning rate falls to a tenth, and then the training ends, when the top-1 on the images `best_on` has
    not risen for `patience` epochs; the weights of the best epoch are kept, or those before the first where none is
    better.
    """

    setup: Setup
    images: int | None
    patience: int
    synthesis: Synthesis
    teacher: str | None = None
    keeps_best: bool = True
    best_on: Literal["val", "test"] = "val"

    def start(self, fit: FitState) -> None:
        """Load the teacher and record the outputs of both networks; on synthetic images freeze all but the low-rank
        weights."""
        self._teacher: nn.Module | None = None
        self._synthetic: SyntheticImages | None = None
        self._outputs: dict[str, dict[str, Tensor]] = {"student": {}, "teacher": {}}
        low_rank = compressed_layers(fit.model)
        if self.setup != "full":
            self._teacher = frozen(fit.context.earlier(self.teacher).module)
            for role, module in (("student", fit.model), ("teacher", self._teacher)):
                for name in low_rank:
                    module.get_submodule(name).register_forward_hook(self._recorder(role, name))
        if self.setup != "synthetic":
            return
        fit.model.requires_grad_(False).eval()
        for layer in low_rank.values():
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(name.endswith("weight"))
        assert self._teacher is not None and self.images is not None
        folder = image_store(self._teacher, fit.context, self.synthesis)
        self._synthetic = folder.first(self.images, self.synthesis.batch_size)

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """Return synthetic images, or few of the training images; on all, None."""
        if self._synthetic is not None:
            return TrainLoader(
                self._synthetic,
                np.arange(len(self._synthetic.labels)),
                Augmentation(),
                nn.Identity(),
                batch_size=batch_size,
                seed=seed,
                min_images=1,  # batch norm is in eval mode
                **place,
            )
        if self.setup == "few_sample":
            return data.chosen_loader("train", batch_size, seed, **place, images=self.images, augmented=True)
        return None

    def images_per_epoch(self, data: Any) -> int | None:
        """Return how many images an epoch has; None on all training images."""
        return None if self.setup == "full" else self.images

    def loss(self, fit: FitState, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Return the layers' squared errors; few-sample training adds the soft targets and keeps a part of `loss`."""
        if self._teacher is None:
            return loss
        with torch.no_grad():
            wanted = self._teacher.to(images.device)(images)
        total = layer_errors(self._outputs["student"], self._outputs["teacher"])
        self._outputs["student"].clear()
        self._outputs["teacher"].clear()
        if self.setup == "synthetic":
            return total
        return total + SOFT * soft_loss(logits, wanted, TEMPERATURE) + (1 - SOFT) * loss

    def rate(self, history: Sequence[Mapping[str, float]], within: float = 0.0) -> float:
        """Return 1, then 0.1, then 0: the end."""
        return plateau([row[f"{self.best_on}/top1"] for row in history], self.patience)

    def _recorder(self, role: str, name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if role == "teacher" or torch.is_grad_enabled():  # not the outputs of validation
                self._outputs[role][name] = output

        return hook


def frozen(model: nn.Module) -> nn.Module:
    """Return `model` in eval mode, without gradients."""
    return model.requires_grad_(False).eval()


def layer_errors(student: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """Sum the mean squared difference of outputs over layers."""
    return torch.stack([functional.mse_loss(student[name], wanted[name]) for name in wanted]).sum()


def soft_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Compute T^2 KL(teacher || student) at temperature T, mean over images."""
    ours, theirs = ((values / temperature).log_softmax(1) for values in (logits, wanted))
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def plateau(accuracies: Sequence[float], patience: int) -> float:
    """Return the learning rate after epochs of these `accuracies`, as a fraction of the first: 1; 0.1 once `patience`
    epochs in a row brought no new best; 0 the second time. The initial accuracy is ignored, so training continues while
    it recovers from a bad first epoch."""
    best, waited, factor = float("-inf"), 0, 1.0
    for accuracy in accuracies:
        waited = 0 if accuracy > best else waited + 1
        best = max(best, accuracy)
        if waited >= patience:
            waited, factor = 0, LAST if factor == 1 else 0.0
    return factor


def image_store(module: nn.Module, context: Context, synthesis: Synthesis) -> ImageStore:
    """Return the store of the images made from the dense `module`, shared by all experiments that use them."""
    if context.shared is None:
        raise UserError("synthetic images need a store")
    return ImageStore(context.shared / f"synthetic-{synthesis.key(module, context.data.input_shape)}")
