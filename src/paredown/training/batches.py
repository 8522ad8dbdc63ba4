"""What a fit reads: batches of a data set, on the device and for the rank that Lightning gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningDataModule

from paredown.plan import Fit

if TYPE_CHECKING:
    from paredown.data.images import ImageData
    from paredown.data.loaders import EvalLoader, TrainLoader


class Batches(LightningDataModule):
    """The training batches of `stage`, ordered by `seed`, and those of each evaluated split of `data`, in batches of
    `eval_batch_size` images on one rank."""

    def __init__(self, data: ImageData, stage: Fit, seed: int, eval_batch_size: int) -> None:
        super().__init__()
        self.data, self.stage, self.seed, self.eval_batch_size = data, stage, seed, eval_batch_size

    def train_dataloader(self) -> TrainLoader:
        """What the first hook offers, else the augmented training images."""
        size, place = self.stage.recipe.batch_size, self._place()
        offers = (hook.loader(self.data, size, self.seed, **place) for hook in self.stage.hooks)
        own: TrainLoader | None = next((offer for offer in offers if offer is not None), None)
        return self.data.train_loader(size, self.seed, **place) if own is None else own

    def val_dataloader(self) -> list[EvalLoader]:
        """One loader for each of the data set's `eval_splits`."""
        place = self._place()
        return [self.data.eval_loader(name, self.eval_batch_size, **place) for name in self.data.eval_splits]

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        assert trainer is not None  # Lightning sets it before it asks for a loader
        return {"device": trainer.strategy.root_device, "rank": trainer.global_rank, "world": trainer.world_size}
