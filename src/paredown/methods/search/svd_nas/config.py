"""SVD-NAS's hyperparameters in groups, and the paper's values of them for its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from paredown.core.constraints import Checked, Count, NonNegative, NonNegativeInt, Positive, Share
from paredown.core.network import Network
from paredown.core.recipe import Recipe

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Proxy(Checked):
    """The pruning of candidates by accuracy: whether to `use` it (auto: for point-wise layers, as published), on
    `images` of the search's split, with at most `tolerance` points of top-1 lost; `legacy_rank_list` as the released
    code."""

    section: ClassVar[str] = "method.proxy"

    use: bool | Literal["auto"] = "auto"
    images: Count = 500
    tolerance: NonNegative = 5.0
    legacy_rank_list: bool = False


@dataclass(frozen=True)
class Search(Checked):
    """The descent on theta; those with `second_` are of the second branch's search. `images` of `split` (null: all),
    `passes` times an epoch; `by` random: no descent, but the `number`-th random design at a given speed-up.
    `conf/method/svd_nas.yaml` explains each."""

    section: ClassVar[str] = "method.search"

    by: Literal["gradient", "random"] = "gradient"
    number: NonNegativeInt = 0
    epochs: Count = 100
    second_epochs: Count = 50
    batch_size: Count = 64
    learning_rate: Positive = 0.01
    weight_decay: NonNegative = 5e-4
    temperature: Positive = 5.0
    second_temperature: Positive = 5.0
    decay: Share = 0.965
    split: Split = "val"
    images: Count | None = None
    passes: Count = 1
    update_total: bool = False

    def recipe(self, recipe: Recipe, epochs: int) -> Recipe:
        """Return the recipe of a search of `epochs`, with the precision and memory format of `recipe`."""
        kept = {name: getattr(recipe, name) for name in ("precision", "channels_last")}
        own: dict[str, Any] = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return Recipe(epochs, optimizer="adam", weight_decay=self.weight_decay, schedule="constant", **own, **kept)


@dataclass(frozen=True)
class Distil(Checked):
    """The distillation after the decomposition (`training.hooks.distillation`), if any, on `images` synthetic or
    training images; null: 25,000 (full: all). `epochs` null: as many as show 128,116,700 images, the published cap.
    The top-1 on `split` decides when the rate falls and which epoch is kept."""

    section: ClassVar[str] = "method.distil"

    setup: Literal["none", "synthetic", "few_sample", "full"] = "none"
    images: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    patience: Count = 10
    split: Split = "val"

    def count(self) -> int | None:
        """Return the number of images; None: all training images."""
        return None if self.setup == "full" else IMAGES if self.images is None else self.images

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the distillation, with the precision and memory format of `recipe`."""
        kept = {name: getattr(recipe, name) for name in ("precision", "channels_last")}
        epochs = self.epochs or max(1, 100 * (IMAGENET // (self.count() or IMAGENET)))
        own: dict[str, Any] = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return Recipe(epochs, weight_decay=self.weight_decay, schedule="constant", **own, **kept)


@dataclass(frozen=True)
class Synthetic(Checked):
    """The synthesis of images from batch-norm statistics (`surgery.synthesise`); null: as published for the network."""

    section: ClassVar[str] = "method.synthetic"

    steps: Count = 500
    batch_size: Count = 32
    learning_rate: float | None = None
    alpha: float | None = None
    average: bool | None = None
    excluded: tuple[int, ...] | None = None

    def settings(self, network: Network) -> dict[str, Any]:
        """Return the fields of `Synthesis` for `network`."""
        published = PUBLISHED.get(network.architecture["_target_"].rpartition(".")[2], PLAIN)
        given = {name: getattr(self, name) for name in published}
        values = {name: published[name] if value is None else value for name, value in given.items()}
        return values | {"excluded": list(values["excluded"]), "steps": self.steps, "batch_size": self.batch_size}


IMAGES, IMAGENET = 25_000, 1_281_167
PLAIN: dict[str, Any] = {"learning_rate": 0.5, "alpha": 1.0, "average": False, "excluded": ()}
COMPACT = PLAIN | {"learning_rate": 0.25, "average": True}
PUBLISHED = {
    "mobilenet_v2": COMPACT,
    "mobilenet_v2_cifar": COMPACT,
    # every expansion's batch norm but the first, and the head's; from the released code
    "efficientnet_b0": PLAIN | {"alpha": 100.0, "average": True, "excluded": tuple(range(6, 49, 3))},
}
