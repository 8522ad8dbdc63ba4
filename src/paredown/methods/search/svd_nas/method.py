"""SVD-NAS (Yu and Bouganis, WACV 2023): factorisation, groups and rank of every layer found by gradient descent on one
number for each candidate, with the trained weights frozen; then the low-rank network, in one branch or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from paredown.core.constraints import Fraction, NonNegative
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import count
from paredown.cost.conventions import macs_under
from paredown.methods.families import gains, notes_of, train_dense
from paredown.methods.search.svd_nas import figures
from paredown.methods.search.svd_nas.candidates import grid
from paredown.methods.search.svd_nas.config import Distil, Proxy, Search, Synthetic
from paredown.methods.search.svd_nas.distil import synthesise_images
from paredown.methods.search.svd_nas.random import draw, reachable
from paredown.methods.search.svd_nas.space import build, listed, open_second, open_space
from paredown.surgery.factorise import Select, convolutions
from paredown.surgery.synthesise import Synthesis
from paredown.training.hooks.architecture_search import ArchitectureSearch
from paredown.training.hooks.distillation import Distillation

HOLD_OUT = "set dataset.validation=N, how many of the training images to hold out"


@dataclass(frozen=True)
class SVDNAS(Method):
    """The hyperparameters of SVD-NAS, explained in `conf/method/svd_nas.yaml`."""

    beta: NonNegative = 16.0
    gamma: tuple[float, float] = (0.5, 0.9)
    step: float = 0.05
    include_end: bool = True
    merge: bool = False
    select: Select = "auto"
    branches: Literal[1, 2] = 1
    relax: Fraction = 0.2
    second_gamma: tuple[float, float] = (0.05, 0.4)
    second_step: float = 0.05
    proxy: Proxy = field(default_factory=Proxy)
    search: Search = field(default_factory=Search)
    distil: Distil = field(default_factory=Distil)
    synthetic: Synthetic = field(default_factory=Synthetic)

    def __post_init__(self) -> None:
        super().__post_init__()
        grid(self.gamma, self.step, self.include_end)
        grid(self.second_gamma, self.second_step, include_end=False, branch="second_")
        if self.search.by == "random" and self.branches == 2:
            raise UserError("method.search.by=random draws designs of one branch: method.branches=2 is not one of them")

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for more images than the split of the search has, or none."""
        split = self.search.split
        there = data.sizes[split]
        if there < 2:
            raise UserError(f"svd_nas searches on held-out images: {HOLD_OUT} (or method.search.split=test)")
        if self.distil.setup != "none" and not data.sizes[self.distil.split]:
            raise UserError(
                f"a distillation goes on as long as the validation top-1 rises: {HOLD_OUT} "
                "(or method.distil.split=test)"
            )
        if self.distil.setup == "few_sample" and (few := self.distil.count() or 0) > data.sizes["train"]:
            raise UserError(
                f"method.distil.images={few} is more than the {data.sizes['train']} training images there are"
            )
        wanted = {"search.images": self.search.images or 2}
        if self._tests_accuracy(network):
            wanted["proxy.images"] = self.proxy.images
        for name, images in wanted.items():
            if images > there:
                raise UserError(f"method.{name}={images} is more than the {there} images of split {split!r} there are")

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages: train (not a network whose weights the user brought), open the space, search, once more
        for two branches, build. Raise UserError for a target that it cannot aim at, and for a network with no layer to
        decompose."""
        random = self.search.by == "random"
        if random and (target is None or target.quantity != "speed_up"):
            raise UserError(
                f"method.search.by=random draws designs of a cost: give speed_up=, not {target or 'nothing'}"
            )
        if target and not random:
            raise UserError(f"svd_nas cannot aim at {target}: method.beta steers it, more of it makes networks smaller")
        names = list(convolutions(network.module, self.select))
        proxy = self.proxy
        task = {"split": self.search.split, "images": proxy.images, "tolerance": proxy.tolerance}
        space: dict[str, Any] = {"names": names, "gamma": list(self.gamma), "step": self.step, "merge": self.merge}
        space |= {"include_end": self.include_end}
        stages = train_dense(network, recipe)
        tested = {"proxy": task | {"legacy": proxy.legacy_rank_list} if self._tests_accuracy(network) else None}
        stages.append(Edit("space", open_space, space | tested))
        if target:
            reachable(listed(network, **space), count(network.module, network.input_shape).macs, target.value)
            stages.append(Edit("draw", draw, {"speed_up": target.value, "number": self.search.number}))
        else:
            stages.append(self._search("search", network, names, recipe, self.search.epochs, self.search.temperature))
        if self.branches == 2:
            second = {"gamma": list(self.second_gamma), "step": self.second_step, "relax": self.relax}
            stages.append(Edit("second_space", open_second, second))
            again = (self.search.second_epochs, self.search.second_temperature)
            stages.append(self._search("search_second", network, names, recipe, *again))
        return [
            *stages,
            Edit("build", build),
            *self._distillation(network, recipe),
        ]

    def _distillation(self, network: Network, recipe: Recipe) -> list[Stage]:
        setup = self.distil.setup
        if setup == "none":
            return []
        made = self.synthetic.settings(network)
        synthesis = Synthesis(**made | {"excluded": tuple(made["excluded"])})
        images, teacher = self.distil.count(), None if network.pretrained else "train"
        settings = {"images": images, "synthesis": synthesis, "teacher": teacher}
        first: list[Stage] = [Edit("synthesise", synthesise_images, settings)] if setup == "synthetic" else []
        hook = Distillation(setup, images, self.distil.patience, synthesis, teacher, best_on=self.distil.split)
        return [*first, Fit("distil", self.distil.recipe(recipe), (hook,))]

    def _search(
        self, name: str, network: Network, names: Sequence[str], recipe: Recipe, epochs: int, temperature: float
    ) -> Fit:
        macs = {layer.name: layer.macs for layer in count(network.module, network.input_shape).layers}
        total = macs_under("thop", network.module, network.input_shape)
        search = self.search
        hook = ArchitectureSearch(
            self.beta,
            {layer: macs[layer] for layer in names},
            total,
            temperature,
            search.decay,
            search.split,
            search.images,
            search.passes,
            search.update_total,
        )
        return Fit(name, search.recipe(recipe, epochs), (hook,))

    def _tests_accuracy(self, network: Network) -> bool:
        if self.proxy.use != "auto":
            return self.proxy.use
        return all(conv.kernel_size == (1, 1) for conv in convolutions(network.module, self.select).values())

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the accuracies and gains of `families.gains`; `search/entropy` of theta at the end; `search/memory`,
        the bytes of the network in the search over the dense one's; for two branches `search/first_branch_macs` beside
        `search/branches_macs`, of the targeted layers."""
        rows = {outcome.stage.name: outcome.history for outcome in outcomes}
        notes, sizes = notes_of(outcomes, "build"), notes_of(outcomes, "space")["bytes"]
        ends = [rows[name][-1] for name in ("search", "search_second") if name in rows]
        found = {"search/memory": sizes["searched"] / sizes["dense"]}
        if ends:
            found["search/entropy"] = ends[-1]["search/entropy"]
        if len(ends) == 2:
            found["search/first_branch_macs"], found["search/branches_macs"] = (
                end["search/choice_macs"] for end in ends
            )
        return found | gains(notes, outcomes[-1].accuracy() if "distil" in rows else notes["decomposed"])

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the design as a schematic; theta's entropy, MACs and the chosen design over the search."""
        return figures.figures(outcomes)
