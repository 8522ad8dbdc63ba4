"""The batches of a fit, on the device and for the rank that Lightning gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningDataModule

from paredown.core.hooks import Hooks

if TYPE_CHECKING:
    from paredown.data.images import ImageData
    from paredown.data.loaders import EvalLoader, TrainLoader


class Batches(LightningDataModule):
    """The training batches of a fit, `batch_size` over all ranks and ordered by `seed`, and those of each evaluated
    split of `data`, in batches of `eval_batch_size` images on one rank."""

    def __init__(
        self, data: ImageData, batch_size: int, hooks: Sequence[Hooks], seed: int, eval_batch_size: int
    ) -> None:
        super().__init__()
        self.data, self.batch_size, self.hooks = data, batch_size, hooks
        self.seed, self.eval_batch_size = seed, eval_batch_size

    def train_dataloader(self) -> TrainLoader:
        """Return what the first hook offers, else the augmented training images."""
        place = self._place()
        offers = (hook.loader(self.data, self.batch_size, self.seed, **place) for hook in self.hooks)
        offered: TrainLoader | None = next((offer for offer in offers if offer is not None), None)
        return self.data.train_loader(self.batch_size, self.seed, **place) if offered is None else offered

    def val_dataloader(self) -> list[EvalLoader]:
        """Return one loader for each of the data set's `eval_splits`."""
        place = self._place()
        return [self.data.eval_loader(name, self.eval_batch_size, **place) for name in self.data.eval_splits]

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        assert trainer is not None  # Lightning sets it before it asks for a loader
        return {"device": trainer.strategy.root_device, "rank": trainer.global_rank, "world": trainer.world_size}
