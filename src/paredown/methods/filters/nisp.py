"""NISP: channels are scored by what reaches the last layer's important inputs from them (Yu et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from paredown.core.constraints import Rule
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.modes import evaluating
from paredown.core.network import Network
from paredown.core.plan import Edit, Stage
from paredown.core.progress import passed
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.graph.channels import Group
from paredown.methods.families import only_goal, train_dense
from paredown.methods.filters.filter_cuts import Keep
from paredown.methods.filters.pruning import CutGroups, prune
from paredown.surgery.filters import filters_kept
from paredown.surgery.importance import Importance, Scores
from paredown.surgery.propagation import infinite_selection, last_linear, propagated

BATCH = 256
Images = Annotated[int, Ge(2), Rule("at least 2: what one image gives has no spread")]
Mixture = Annotated[float, Interval(ge=0, le=1), Rule("between 0 and 1")]


@identity("importance/nisp")
@dataclass(frozen=True)
class Propagated(Importance):
    """Inf-FS with `alpha` on the inputs of the last linear layer, of `images` training images, propagated down to a
    network of `widths`."""

    widths: Mapping[str, int]
    images: int = 2000
    alpha: float = 0.5

    def scores(self, network: Network, groups: Sequence[Group], context: Context) -> Scores:
        """Compute the importances. Raise UserError where they are not finite."""
        top = infinite_selection(features(network.module, context, self.images), self.alpha)
        if not top.isfinite().all():
            raise UserError("nisp: the inputs of the last layer are not finite: the training has diverged")
        return propagated(network.module, network.input_shape, groups, top, self.widths)

    def images_of(self, data: Any) -> int:
        """Return `images`, or those of the training where they are fewer."""
        return min(self.images, int(data.sizes["train"]))


@torch.no_grad()
def features(module: nn.Module, context: Context, images: int) -> Tensor:
    """Return the inputs (N, d) of the last linear layer for the first `images` training images (all where there are
    fewer), of an order and augmentations that the stage's seed fixes."""
    found: list[Tensor] = []
    layer = module.get_submodule(last_linear(module))
    handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0].detach().flatten(1).cpu()))
    with handle, evaluating(module):
        loader = context.data.train_loader(BATCH, context.seed, context.device)
        for batch, _ in passed(loader, "scoring", -(-images // BATCH)):
            module(batch[: images - sum(map(len, found))])
            if sum(map(len, found)) >= images:
                break
    return torch.cat(found)


@dataclass(frozen=True)
class NISP(CutGroups):
    """A training (not of a network whose weights the user brought), the cut of the least important channels to `keep`
    of each group or to a target at one rate, and a finetuning. The last layer's inputs are ranked on at most `images`
    training images."""

    keep: Keep | None = None
    images: Images = 2000
    alpha: Mixture = 0.5
    finetune: RecipeOverrides = field(default_factory=RecipeOverrides)

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError unless there is one of `keep` and a target, where that is out of reach
        or removes nothing, and for a network without a linear layer."""
        only_goal("nisp", "channels", target, {"keep": self.keep})
        groups = self.groups(network)
        widths = filters_kept(network, groups, self.keep, Goal.of(target) if target else None)
        last_linear(network.module)  # its inputs are scored after the training: without one that would be in vain
        importance = Propagated(widths, self.images, self.alpha)
        settings: dict[str, Any] = {"importance": importance, "widths": widths, "scope": self.scope}
        return [*train_dense(network, recipe), Edit("prune", prune, settings), *self.further("finetune", recipe)]
