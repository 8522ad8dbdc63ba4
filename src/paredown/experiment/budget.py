"""Training budgets: one number of training images for a whole plan, shared by its trainings as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from paredown.core.constraints import Checked, Count
from paredown.core.errors import UserError
from paredown.core.plan import Fit, Method, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.training.hooks.part import Part

Places = list[tuple[Stage, Any]]  # each stage and the data set that it runs on
Plan = Callable[[Method, Recipe], Places]


@dataclass(frozen=True)
class TrainingBudget(Checked):
    """A budget of training images, in `images` or in `epochs` over the training images; None: the recipe decides.

    Trainings share it in the proportions that they have beside a recipe of `reference` epochs: a finetuning of 4 epochs
    published beside a training of 160 gets a fortieth of what that gets, and at least one epoch.
    """

    section: ClassVar[str] = "budget"

    images: Count | None = None
    epochs: Count | None = None
    reference: Count = 160

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None and self.epochs is not None:
            raise UserError("budget.images and budget.epochs are both set: one budget is one number")

    def __bool__(self) -> bool:
        return self.images is not None or self.epochs is not None

    def __str__(self) -> str:
        return f"budget.images={self.images}" if self.images is not None else f"budget.epochs={self.epochs}"

    def total(self, training_images: int) -> int:
        """Return the images of the budget. Raise UserError where they are fewer than the training images."""
        images = self.images or (self.epochs or 0) * training_images
        if images < training_images:
            raise UserError(f"{self} is less than one epoch: there are {training_images:,} training images")
        return images


def shared(budget: TrainingBudget, method: Method, recipe: Recipe, training_images: int, plan: Plan) -> Places:
    """Return the plan of `method` whose trainings see as many training images as `budget` has, in whole epochs: the
    longest recipe that it has room for, and what then is left in the last training, or unused where that is a `Part` of
    one that others share. Images that a hook supplies (of a
    search, a distillation) are not counted. Raise UserError where each training cannot have an epoch."""
    total = budget.total(training_images)

    def planned(epochs: int) -> tuple[Places, int]:
        try:
            places = plan(_scaled(method, epochs / budget.reference), replace(recipe, epochs=epochs))
        except UserError as error:
            raise UserError(f"{error}, as {budget} shares it" if "epochs" in str(error) else str(error)) from error
        return places, sum(fit.recipe.epochs * data.sizes["train"] for _, fit, data in _trainings(places))

    epochs = total // training_images
    places, spent = planned(epochs)
    while spent > total:
        if epochs == 1:
            raise UserError(f"{budget} is too little: this plan takes {spent:,} images with one epoch a training")
        epochs = max(1, min(epochs - 1, epochs * total // spent))  # what is spent is almost proportional
        places, spent = planned(epochs)
    while spent and (longer := planned(epochs + 1))[1] <= total:
        epochs, (places, spent) = epochs + 1, longer
    return _lengthened(places, total - spent)


def _scaled(method: Any, factor: float) -> Any:
    """Return `method` with the epochs that it fixes itself multiplied by `factor`: at least one, none where it has
    none."""
    found = {item.name: getattr(method, item.name) for item in fields(method)}
    changes: dict[str, Any] = {
        name: replace(value, epochs=max(1, round(value.epochs * factor)))
        for name, value in found.items()
        if isinstance(value, RecipeOverrides) and value.epochs
    }
    return replace(method, **changes)


def _trainings(places: Places) -> list[tuple[int, Fit, Any]]:
    """Return the trainings on training images, each with its place in the plan and its data set."""
    return [
        (number, stage, data)
        for number, (stage, data) in enumerate(places)
        if isinstance(stage, Fit) and supplied_images(stage, data) is None
    ]


def supplied_images(stage: Fit, data: Any) -> int | None:
    """Return how many images an epoch of `stage` takes from a hook in place of the training images; None: from none."""
    supplied = (hook.images_per_epoch(data) for hook in stage.hooks)
    return next((images for images in supplied if images is not None), None)


def _lengthened(places: Places, left: int) -> Places:
    """Give the last training the whole epochs in `left` images, unless it is a part of one that others share."""
    trainings = _trainings(places)
    if not trainings or any(isinstance(hook, Part) for hook in trainings[-1][1].hooks):
        return places
    last, fit, data = trainings[-1]
    recipe = replace(fit.recipe, epochs=fit.recipe.epochs + left // data.sizes["train"])
    return [*places[:last], (replace(fit, recipe=recipe), data), *places[last + 1 :]]
