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

from paredown.plan import Fit, Recipe, digest

Row = dict[str, float]  # the figures of one epoch, by metric name


class FitModule(pl.LightningModule):
    """Trains `network` as `stage` says. `history` holds one row of figures per epoch; `splits` names the evaluation
    loaders in their order; `seed` decides every random number, anew at each epoch, so that a resumed fit repeats."""

    def __init__(self, network: nn.Module, stage: Fit, seed: int, splits: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.recipe, self.hooks, self.seed, self.splits = stage.recipe, stage.hooks, seed, splits
        self.history: list[Row] = []
        self.keeps_best = any(hook.keeps_best for hook in stage.hooks)
        self._best: dict[str, Tensor] = {}
        self._kept: Row = {}  # what the weights in `_best` were found to be worth
        self._sums: dict[str, Tensor] = {}
        self._penalties: dict[str, Tensor] = {}
        self._objective = torch.zeros(())  # the sum of what hooks put in the place of cross-entropy
        # in a tuple, so that the compiled twin does not register the weights a second time
        self._callable = (torch.compile(network) if stage.recipe.compile else network,)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The first optimiser that a hook offers, else the recipe's."""
        offers = (hook.optimizer(self.network, self.recipe) for hook in self.hooks)
        return next((offer for offer in offers if offer is not None), None) or make_optimizer(self.network, self.recipe)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, set its learning rate (a function of the epoch: nothing to restore) and reset the sums."""
        rank_seed = digest([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(rank_seed[:15], 16))
        given = self._given_rate()
        factor = rate_factor(self.recipe, self.current_epoch) if given is None else given
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        self._started = time.perf_counter()
        self._reset("train")
        self._penalties, self._objective = {}, torch.zeros((), device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy plus penalties of one batch of images (B, C, H, W) and labels (B,)."""
        images, labels = batch
        for hook in self.hooks:
            hook.before_step(self.network, self.global_step)
        logits = self._callable[0](images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self._count("train", loss, logits, labels)
        entropy = loss
        for hook in self.hooks:
            loss = hook.loss(self.network, images, logits, loss)
        if loss is not entropy:
            self._objective = self._objective + loss.detach()
        for hook in self.hooks:
            for name, penalty in hook.penalties(self.network, self.current_epoch / self.recipe.epochs).items():
                loss = loss + penalty
                self._penalties[name] = self._penalties.get(name, 0) + penalty.detach()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Let the hooks act after the optimiser's step."""
        for hook in self.hooks:
            hook.after_step(self.network, self.global_step - 1)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of every evaluation loader."""
        for split in self.splits:
            self._reset(split)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the split that `dataloader_idx` points at."""
        images, labels = batch
        logits = self._callable[0](images)
        self._count(self.splits[dataloader_idx], functional.cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Before the first epoch, where `fit` asks for it: the network as it came is the first that may be the best."""
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
            row |= hook.after_epoch(self.network, self.current_epoch)
        trained = {name: value for name, value in row.items() if name.startswith(("train/", "penalty/"))}
        if wrong := {name: value for name, value in trained.items() if not math.isfinite(value)}:
            raise FloatingPointError(f"training diverged: {wrong} in epoch {self.current_epoch + 1}")
        self._keep_if_best(evaluated)
        self.history.append(row | {f"kept/{name}": value for name, value in self._kept.items()})
        if self._given_rate() == 0:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Go back to the best weights, where a hook wants it."""
        if self._best:
            self.network.load_state_dict(self._best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rows of the epochs done, and the best weights with their figures."""
        checkpoint |= {"history": self.history, "best": self._best, "kept": self._kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the rows of the epochs done."""
        self.history, self._best = list(checkpoint["history"]), dict(checkpoint.get("best", {}))
        self._kept = dict(checkpoint.get("kept", {}))

    def _keep_if_best(self, evaluated: Row) -> None:
        if self.keeps_best and evaluated["val/top1"] > self._kept.get("val/top1", -1.0):
            self._best = {name: value.clone() for name, value in self.network.state_dict().items()}
            self._kept = evaluated

    def _evaluated(self) -> Row:
        return {name: value for split in self.splits for name, value in self._figures(split).items()}

    def _given_rate(self) -> float | None:
        """What a hook says of the learning rate after `history`."""
        own = (hook.rate(self.history) for hook in self.hooks)
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
    """SGD or Adam (coupled L2) over all parameters of `network`, weight decay on each, batch norm too (GraSP)."""
    shared: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "foreach": True}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), **shared)
    momentum: dict[str, Any] = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    return torch.optim.SGD(network.parameters(), **momentum, **shared)


def rate_factor(recipe: Recipe, epoch: int) -> float:
    """The learning rate of `epoch` (0-based) as a fraction of the first."""
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    if recipe.schedule == "steps":
        steps = (max(1, round(fraction * recipe.epochs)) for fraction in recipe.milestones)  # never in the first epoch
        return recipe.gamma ** sum(epoch >= step for step in steps)
    return 1.0
