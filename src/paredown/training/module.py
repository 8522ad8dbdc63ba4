"""The Lightning module of every fit: loss, penalties, optimiser, learning rate and the figures of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import digest, identity_of
from paredown.core.recipe import Recipe
from paredown.training.norms import recompute, trained_norms, warn_of_lag
from paredown.training.schedule import rate_factor

Row = dict[str, float]  # the figures of one epoch, by metric name
LOOK = 100  # steps between two looks for a loss that is not finite: each waits for the device


class FitModule(pl.LightningModule):
    """The training of the network of `fit` under its recipe with `hooks`, which have started.

    `history` holds one row of figures per epoch; `splits` names the evaluation loaders in their order. The seed of
    the stage decides every random number, anew at each epoch, so that a resumed fit repeats.
    """

    def __init__(self, fit: FitState, hooks: Sequence[Hooks], splits: Sequence[str]) -> None:
        super().__init__()
        self.network = fit.model
        self.fit, self.recipe, self.hooks, self.splits = fit, fit.recipe, hooks, splits
        self.history: list[Row] = []
        self.best_on = next((hook.best_on for hook in hooks if hook.keeps_best), None)
        self._best: dict[str, Tensor] = {}
        self._kept: Row = {}  # what the weights in `_best` were found to be worth
        self._sums: dict[str, Tensor] = {}
        self._penalties: dict[str, Tensor] = {}
        self._objective = torch.zeros(())  # the sum of what hooks put in the place of cross-entropy
        # in a tuple, so that the compiled twin does not register the weights a second time
        self._callable = (torch.compile(fit.model) if fit.recipe.compile else fit.model,)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the first optimiser that a hook offers, else the recipe's."""
        offers = (hook.optimizer(self.fit) for hook in self.hooks)
        offered = next((offer for offer in offers if offer is not None), None)
        self.fit.optimizer = offered or make_optimizer(self.network, self.recipe)
        return self.fit.optimizer

    def on_train_start(self) -> None:
        """Warn of batch norms that cannot follow the weights."""
        if not self.recipe.norm_images and self.global_rank == 0:
            warn_of_lag(trained_norms(self.network), int(self.trainer.estimated_stepping_batches))

    def on_train_epoch_start(self) -> None:
        """Seed the epoch and reset the sums."""
        self.fit.epoch = self.current_epoch
        self._norms = trained_norms(self.network)
        rank_seed = digest([self.fit.context.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(rank_seed[:15], 16))
        self._started = time.perf_counter()
        self._reset("train")
        self._penalties, self._objective = {}, torch.zeros((), device=self.device)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Set the learning rate of a step: a function of its number, so that nothing is to be restored."""
        within = index / self.trainer.num_training_batches
        given = self._given_rate(within)
        factor = rate_factor(self.recipe, self.current_epoch + within) if given is None else given
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Compute cross-entropy plus penalties of one batch of images (B, C, H, W) and labels (B,)."""
        images, labels = batch
        self.fit.step, self.fit.step_in_epoch = self.global_step, index
        for hook in self.hooks:
            hook.before_step(self.fit)
        logits = self._callable[0](images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self._count("train", loss, logits, labels)
        entropy = loss
        for hook in self.hooks:
            loss = hook.loss(self.fit, images, logits, loss)
        if loss is not entropy:
            self._objective = self._objective + loss.detach()
        for hook in self.hooks:
            for name, penalty in hook.penalties(self.fit).items():
                loss = loss + penalty
                self._penalties[name] = self._penalties.get(name, 0) + penalty.detach()
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the hooks act on the gradients: averaged over ranks and unscaled, not yet clipped."""
        for hook in self.hooks:
            hook.after_backward(self.fit)

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Let the hooks act after the optimiser's step. Raise FloatingPointError within LOOK steps of a divergence."""
        for hook in self.hooks:
            hook.after_step(self.fit)
        if (index + 1) % LOOK == 0:
            self._require_finite({"train/loss": self._figures("train")["train/loss"]})

    def on_validation_epoch_start(self) -> None:
        """Let the hooks act before an epoch is evaluated, recompute the batch norms where the recipe says so, and reset
        the sums of every evaluation loader."""
        if not self.trainer.sanity_checking:
            for hook in self.hooks:
                hook.before_evaluation(self.fit)
            self._recompute_norms()
        for split in self.splits:
            self._reset(split)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the split that `dataloader_idx` points at."""
        images, labels = batch
        logits = self._callable[0](images)
        self._count(self.splits[dataloader_idx], functional.cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Count the network before the first epoch as the first candidate for the best, where `fit` asks for it."""
        if self.trainer.sanity_checking:
            self._keep_if_best(self._evaluated())

    def on_train_epoch_end(self) -> None:
        """Write the epoch's row."""
        evaluated = self._evaluated()
        row = self._figures("train") | evaluated
        steps = max(1, int(self.trainer.num_training_batches))
        row |= {f"penalty/{name}": float(total) / steps for name, total in self._penalties.items()}
        if self._objective:
            row["train/objective"] = float(self._objective) / steps
        row["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self._started
        for hook in self.hooks:
            row |= hook.after_epoch(self.fit)
        self._require_finite({name: row[name] for name in row if name.startswith(("train/", "penalty/"))})
        self._keep_if_best(evaluated)
        self.history.append(row | {f"kept/{name}": value for name, value in self._kept.items()})
        if self._given_rate() == 0:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Load the best weights, where a hook keeps them."""
        if self._best:
            self.network.load_state_dict(self._best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rows of the epochs done, the best weights with their figures, and what the hooks remember."""
        checkpoint |= {"history": self.history, "best": self._best, "kept": self._kept, "hooks": self.remembered()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` kept."""
        self.history, self._best = list(checkpoint["history"]), dict(checkpoint["best"])
        self._kept = dict(checkpoint["kept"])
        for hook, state in zip(self._counted, checkpoint["hooks"], strict=True):
            hook.load_state_dict(state)

    def remembered(self) -> list[dict[str, Any]]:
        """Return the states of the hooks that are part of the key."""
        return [hook.state_dict() for hook in self._counted]

    @property
    def _counted(self) -> list[Hooks]:
        """The hooks that are part of the key: the same ones whenever a fit of one key is resumed."""
        return [hook for hook in self.hooks if identity_of(type(hook)).counts]

    def _recompute_norms(self) -> None:
        """Compute the batch norms' statistics anew, on every rank from the same images, so that they stay equal."""
        if images := self.recipe.norm_images:
            data, seed = self.fit.context.data, self.fit.context.seed
            loader = data.chosen_loader("train", self.recipe.batch_size, seed, self.device, images=images)
            recompute(self._norms, self.network, loader)

    def _keep_if_best(self, evaluated: Row) -> None:
        if self.best_on and evaluated[top1 := f"{self.best_on}/top1"] > self._kept.get(top1, -1.0):
            self._best = {name: value.clone() for name, value in self.network.state_dict().items()}
            self._kept = evaluated

    def _require_finite(self, figures: Row) -> None:
        if wrong := {name: value for name, value in figures.items() if not math.isfinite(value)}:
            raise FloatingPointError(f"training diverged: {wrong} in epoch {self.current_epoch + 1}")

    def _evaluated(self) -> Row:
        return {name: value for split in self.splits for name, value in self._figures(split).items()}

    def _given_rate(self, within: float = 0.0) -> float | None:
        """Return the learning rate that a hook gives for the epoch after `history`, of which the fraction `within` is
        done, as a fraction of the first."""
        own = (hook.rate(self.history, within) for hook in self.hooks)
        return next((factor for factor in own if factor is not None), None)

    def _reset(self, split: str) -> None:
        self._sums[split] = torch.zeros(4, dtype=torch.float64, device=self.device)

    def _count(self, split: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            batch = torch.stack(
                [
                    loss * len(labels),
                    top[:, 0].sum(),
                    top.sum(),
                    top.new_tensor(len(labels), dtype=torch.int64),
                ]
            )
            self._sums[split] += batch

    def _figures(self, split: str) -> Row:
        loss, top1, top5, images = self.trainer.strategy.reduce(self._sums[split], reduce_op="sum").tolist()
        return {
            f"{split}/loss": loss / images,
            f"{split}/top1": 100 * top1 / images,
            f"{split}/top5": 100 * top5 / images,
        }


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD or Adam (coupled L2) over all parameters of `network`, weight decay on each, batch norm too (GraSP)."""
    shared: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "foreach": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), **shared)
    momentum: dict[str, Any] = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    return torch.optim.SGD(network.parameters(), **momentum, **shared)
