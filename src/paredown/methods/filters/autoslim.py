"""AutoSlim: a network trained at many widths at once, slimmed greedily, and the found widths trained from scratch (Yu
and Huang 2019)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paredown.core import blueprint
from paredown.core.constraints import Count
from paredown.core.distributed import broadcast
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.modes import evaluating
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Stage
from paredown.core.progress import working_on
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.graph.channels import Group
from paredown.layers.narrow import NORMS
from paredown.methods.families import only_goal
from paredown.methods.filters.pruning import CutGroups, Part, Scopes, cut_channels
from paredown.surgery.prefixes import choices_of, maskable_groups, narrower, prefixes, steps_of
from paredown.surgery.width_budget import Widths, limited
from paredown.training.hooks.sandwich import Sandwich

log = logging.getLogger("paredown")
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) and labels (B,)


@dataclass(frozen=True)
class AutoSlim(CutGroups):
    """Widths run from the fraction `least` to 1, `1 / steps` of the full one apart (rounded down, at least a channel).
    A step of the training takes `samples` random ones beside the smallest and the largest. `images`: of the split on
    which widths are chosen (validation, or training images where none are held out). `train`: changes of the recipe of
    the last training."""

    edit: ClassVar[str] = "slim"

    least: Part = 0.15
    steps: Count = 10
    samples: Count = 2
    images: Count = 2000
    keep_params: Part | None = None
    supernet: RecipeOverrides = field(default_factory=RecipeOverrides)
    train: RecipeOverrides = field(default_factory=RecipeOverrides)

    def groups(self, network: Network) -> tuple[Group, ...]:
        """Find the groups that may lose channels. Raise UserError where no batch norm can be masked."""
        if not (found := maskable_groups(network, self.scope)):
            raise UserError(
                f"autoslim masks batch norms: {type(network.module).__name__} has none to mask (method.scope)"
            )
        return found

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the training of all widths, the search and the training of what it found. Raise UserError unless there
        is one target, within reach."""
        goal = only_goal("autoslim", "channels", target, {"keep_params": self.keep_params})
        groups = self.groups(network)
        step = steps_of(groups, self.steps)
        cost, limit = limited(network, groups, goal)
        if cost.total({g.name: choices_of(g, self.least, step[g.name])[0] for g in groups}) > limit:
            raise UserError(
                f"{goal} is out of reach with method.least={self.least:g} of each group's channels: lower it"
            )
        widths = {"least": self.least, "steps": self.steps, "scope": self.scope}
        search = {"goal": goal, "images": self.images} | widths
        sandwich = Sandwich(samples=self.samples, **widths)  # type: ignore[arg-type]
        return [
            Fit("supernet", recipe.changed(self.supernet), (sandwich,)),
            Edit("slim", slim, search),
            Fit("train", recipe.changed(self.train)),
        ]


@identity("autoslim/slim", kinds=["narrow"])
def slim(
    network: Network, context: Context, goal: Goal, images: int, least: float, steps: int, scope: Scopes = "all"
) -> dict[str, Any]:
    """Take channels from one group after the other, where the error on held-out images stays lowest, until `goal` is
    met; then draw all weights anew. Return the notes of `cut_channels`, and how many `images` the search has seen."""
    groups = maskable_groups(network, scope)
    batch = _batch(context, images)
    cost, limit = limited(network, groups, goal)
    seen = [0]

    def score(widths: Widths) -> tuple[float, float]:
        seen[0] += len(batch[1])
        return error(network.module.to(context.device), groups, widths, batch)

    widths = greedy(groups, steps_of(groups, steps), least, lambda now: cost.total(now) <= limit, score)
    agreed = broadcast(torch.tensor(list(widths.values())))  # errors differ in the last bit between GPUs
    widths = dict(zip(widths, agreed.tolist(), strict=True))
    notes = cut_channels(network, context, groups, prefixes(groups, widths))
    network.module = blueprint.build(network.architecture, network.blueprint).to(context.device)
    return notes | {"images": seen[0]}


def greedy(
    groups: Sequence[Group],
    step: Mapping[str, int],
    least: float,
    enough: Callable[[Widths], bool],
    score: Callable[[Widths], tuple[float, float]],
) -> dict[str, int]:
    """Return the widths that are `enough`, found from the full ones by taking a step from the group where the `score`
    is then lowest, ties to the earlier group. Raise UserError where the narrowest are not enough."""
    widths = {group.name: group.size for group in groups}
    fewest = {group.name: choices_of(group, least, step[group.name])[0] for group in groups}
    with working_on("search", unit="channels") as work:
        while not enough(widths):
            narrower_ones = [
                widths | {name: widths[name] - step[name]}
                for name in widths
                if widths[name] - step[name] >= fewest[name]
            ]
            if not narrower_ones:
                raise UserError(
                    f"autoslim cannot reach the target with method.least={least:g} of each group's channels"
                )
            widths = min(narrower_ones, key=score)
            work.done = sum(group.size for group in groups) - sum(widths.values())
            work.figures = f"{sum(widths.values())} are left"
    log.info("slim: %d of %d channels are left", sum(widths.values()), sum(group.size for group in groups))
    return widths


def error(module: nn.Module, groups: Sequence[Group], widths: Widths, batch: Batch) -> tuple[float, float]:
    """Return the fraction of wrong answers on `batch`, and the cross-entropy, at these `widths`, with the statistics of
    the batch; dropout is off."""
    with torch.no_grad(), evaluating(module):
        for layer in module.modules():
            if isinstance(layer, NORMS):
                layer.train()
        with narrower(module, groups, widths):
            logits = module(batch[0])
    wrong = float((logits.argmax(1) != batch[1]).float().mean())
    return wrong, float(cross_entropy(logits, batch[1]))


def _batch(context: Context, images: int) -> Batch:
    split = "val" if context.data.sizes["val"] else "train"
    few = min(images, context.data.sizes[split])
    parts = list(context.data.eval_loader(split, few, context.device, images=few))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
