"""SVD-NAS's knobs in groups, and what the paper sets them to for its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from paredown.plan import Network, Recipe

Split = Literal["val", "test"]


@dataclass(frozen=True)
class Proxy:
    """Pruning by accuracy: `use`, or auto: where the layers are point-wise, as published; on `images` of the search's
    split; more than `tolerance` points of top-1 lost is too much; `legacy_rank_list` as the released code."""

    use: bool | Literal["auto"] = "auto"
    images: int = 500
    tolerance: float = 5.0
    legacy_rank_list: bool = False


@dataclass(frozen=True)
class Search:
    """The descent on theta; the `second_` ones are of the second branch's search. `images` of `split` (null: all),
    `passes` times an epoch; `by` random: none of it, but the `number`-th random design at a given speed-up.
    `conf/method/svd_nas.yaml` says what each does."""

    by: Literal["gradient", "random"] = "gradient"
    number: int = 0
    epochs: int = 100
    second_epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    temperature: float = 5.0
    second_temperature: float = 5.0
    decay: float = 0.965
    split: Split = "val"
    images: int | None = None
    passes: int = 1
    update_total: bool = False

    def recipe(self, recipe: Recipe, epochs: int) -> Recipe:
        """How a search of `epochs` trains, on the machine of `recipe`."""
        kept = {name: getattr(recipe, name) for name in ("precision", "channels_last")}
        own: dict[str, Any] = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return Recipe(epochs, optimizer="adam", weight_decay=self.weight_decay, schedule="constant", **own, **kept)


@dataclass(frozen=True)
class Distil:
    """What follows the decomposition: nothing, or a distillation (`training.distillation`) on `images` synthetic or
    training images; null: 25,000 (full: all). `epochs` null: as many as show 128,116,700 images, the published cap."""

    setup: Literal["none", "synthetic", "few_sample", "full"] = "none"
    images: int | None = None
    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 10

    def count(self) -> int | None:
        """Of the images; None: all that train."""
        return None if self.setup == "full" else IMAGES if self.images is None else self.images

    def recipe(self, recipe: Recipe) -> Recipe:
        """How it trains, on the machine of `recipe`."""
        kept = {name: getattr(recipe, name) for name in ("precision", "channels_last")}
        epochs = self.epochs or max(1, 100 * (IMAGENET // (self.count() or IMAGENET)))
        own: dict[str, Any] = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
        return Recipe(epochs, weight_decay=self.weight_decay, schedule="constant", **own, **kept)


@dataclass(frozen=True)
class Synthetic:
    """How images are made of batch-norm statistics (`surgery.synthetic`); null: as published for the network."""

    steps: int = 500
    batch_size: int = 32
    learning_rate: float | None = None
    alpha: float | None = None
    average: bool | None = None
    excluded: tuple[int, ...] | None = None

    def settings(self, network: Network) -> dict[str, Any]:
        """The fields of `Synthesis`, for `network`."""
        published = PUBLISHED.get(network.architecture["_target_"].rpartition(".")[2], PLAIN)
        own = {name: getattr(self, name) for name in published}
        values = {name: published[name] if value is None else value for name, value in own.items()}
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
