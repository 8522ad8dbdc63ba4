"""SVD-NAS (Yu and Bouganis, WACV 2023): family, groups and rank of every layer found by gradient descent on one number
for each candidate, with the trained weights frozen; then the low-rank network built, in one branch or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from paredown.cost import count
from paredown.cost.rules import macs_under
from paredown.errors import UserError
from paredown.methods import _nas_figures
from paredown.methods._nas_distil import drop_dense, synthesise_images
from paredown.methods._nas_knobs import Distil, Proxy, Search, Synthetic
from paredown.methods._nas_random import draw, reachable
from paredown.methods._nas_space import build, listed, open_second, open_space
from paredown.methods._post_training import TOPS
from paredown.plan import Edit, Fit, Method, Network, Outcome, Recipe, Stage, Target
from paredown.surgery.design_space import Select, candidates, grid, targeted
from paredown.surgery.synthetic import Synthesis
from paredown.training.architecture_search import ArchitectureSearch
from paredown.training.distillation import Distillation

__all__ = ["SVDNAS", "Distil", "Proxy", "Search", "Synthetic", "candidates"]


@dataclass(frozen=True)
class SVDNAS(Method):
    """The knobs of SVD-NAS; `conf/method/svd_nas.yaml` says what each does."""

    beta: float = 16.0
    gamma: tuple[float, float] = (0.5, 0.9)
    step: float = 0.05
    include_end: bool = True
    merge: bool = False
    select: Select = "auto"
    branches: Literal[1, 2] = 1
    relax: float = 0.2
    proxy: Proxy = field(default_factory=Proxy)
    search: Search = field(default_factory=Search)
    distil: Distil = field(default_factory=Distil)
    synthetic: Synthetic = field(default_factory=Synthetic)

    def __post_init__(self) -> None:
        grid(self.gamma, self.step)
        search, proxy, distil, synthetic = self.search, self.proxy, self.distil, self.synthetic
        counts: dict[str, int | None] = {
            "proxy.images": proxy.images,
            "search.epochs": search.epochs,
            "search.second_epochs": search.second_epochs,
            "search.batch_size": search.batch_size,
            "search.passes": search.passes,
            "search.images": search.images,
            "distil.images": distil.images,
            "distil.epochs": distil.epochs,
            "distil.batch_size": distil.batch_size,
            "distil.patience": distil.patience,
            "synthetic.steps": synthetic.steps,
            "synthetic.batch_size": synthetic.batch_size,
        }
        if search.by == "random" and self.branches == 2:
            raise UserError("method.search.by=random draws designs of one branch: method.branches=2 is not one of them")
        numbers = (
            ("search.number", search.number, "at least 0", search.number >= 0),
            ("beta", self.beta, "at least 0", self.beta >= 0),
            ("relax", self.relax, "in [0, 1)", 0 <= self.relax < 1),
            ("proxy.tolerance", proxy.tolerance, "at least 0", proxy.tolerance >= 0),
            ("search.learning_rate", search.learning_rate, "above 0", search.learning_rate > 0),
            ("search.weight_decay", search.weight_decay, "at least 0", search.weight_decay >= 0),
            ("search.temperature", search.temperature, "above 0", search.temperature > 0),
            ("search.second_temperature", search.second_temperature, "above 0", search.second_temperature > 0),
            ("search.decay", search.decay, "in (0, 1]", 0 < search.decay <= 1),
            ("distil.learning_rate", distil.learning_rate, "above 0", distil.learning_rate > 0),
            ("distil.weight_decay", distil.weight_decay, "at least 0", distil.weight_decay >= 0),
        )
        wrong = [f"method.{name}={value:g} ({rule})" for name, value, rule, holds in numbers if not holds]
        wrong += [f"method.{name}={n} (at least 1)" for name, n in counts.items() if n is not None and n < 1]
        if wrong:
            raise UserError("; ".join(wrong))

    def check(self, network: Network, data: Any) -> None:
        """UserError for more images than the split of the search has, or none."""
        split = self.search.split
        there = data.sizes[split]
        if there < 2:
            raise UserError("svd_nas searches on held-out images: set dataset.validation (or method.search.split=test)")
        if self.distil.setup != "none" and data.sizes["val"] < 1:
            raise UserError("a distillation goes on as long as the validation top-1 rises: set dataset.validation")
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
        """Train (not a network whose weights the user brought), open the space, search, once more for two branches,
        build. UserError for a target that it cannot aim at, and for a network with no layer to decompose."""
        random = self.search.by == "random"
        if random and (target is None or target.quantity != "speed_up"):
            raise UserError(
                f"method.search.by=random draws designs of a cost: give speed_up=, not {target or 'nothing'}"
            )
        if target and not random:
            raise UserError(f"svd_nas cannot aim at {target}: method.beta steers it, more of it makes networks smaller")
        names = list(targeted(network.module, self.select))
        proxy = self.proxy
        task = {"split": self.search.split, "images": proxy.images, "tolerance": proxy.tolerance}
        space: dict[str, Any] = {"names": names, "gamma": list(self.gamma), "step": self.step, "merge": self.merge}
        space |= {"include_end": self.include_end}
        stages: list[Stage] = [] if network.pretrained else [Fit("train", recipe)]
        tested = {"proxy": task | {"legacy": proxy.legacy_rank_list} if self._tests_accuracy(network) else None}
        stages.append(Edit("space", open_space, space | tested))
        if target:
            reachable(listed(network, **space), count(network.module, network.input_shape).macs, target.value)
            stages.append(Edit("draw", draw, {"speed_up": target.value, "number": self.search.number}))
        else:
            stages.append(self._search("search", network, names, recipe, self.search.epochs, self.search.temperature))
        if self.branches == 2:
            stages.append(Edit("second_space", open_second, {"step": self.step, "relax": self.relax}))
            again = (self.search.second_epochs, self.search.second_temperature)
            stages.append(self._search("search_second", network, names, recipe, *again))
        return [
            *stages,
            Edit("build", build, {"keep_dense": self.distil.setup != "none"}),
            *self._distillation(network, recipe),
        ]

    def _distillation(self, network: Network, recipe: Recipe) -> list[Stage]:
        setup = self.distil.setup
        if setup == "none":
            return []
        made = self.synthetic.settings(network)
        images = Edit("synthesise", synthesise_images, {"images": self.distil.count(), "synthesis": made})
        synthesis = Synthesis(**made | {"excluded": tuple(made["excluded"])})
        hook = Distillation(setup, self.distil.count(), self.distil.patience, synthesis)
        first: list[Stage] = [images] if setup == "synthetic" else []
        return [*first, Fit("distil", self.distil.recipe(recipe), (hook,)), Edit("ship", drop_dense)]

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
        return all(conv.kernel_size == (1, 1) for conv in targeted(network.module, self.select).values())

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """`base/top1`, before the network was decomposed, `decomposed/top1`, right after, `gain/base_top1`, what it all
        gained; each for top5 too. `search/entropy` of theta at the end; `search/memory`: bytes of the network in
        the search against the dense one's; for two branches `search/first_branch_macs` beside `search/branches_macs`,
        of the targeted layers."""
        done = {outcome.stage.name: outcome for outcome in outcomes}
        notes, sizes = done["build"].notes, done["space"].notes["bytes"]
        ends = [done[name].history[-1] for name in ("search", "search_second") if name in done]
        found = {"search/memory": sizes["searched"] / sizes["dense"]}
        if ends:
            found["search/entropy"] = ends[-1]["search/entropy"]
        if len(ends) == 2:
            found["search/first_branch_macs"], found["search/branches_macs"] = (
                end["search/choice_macs"] for end in ends
            )
        for top in TOPS:
            before, after = notes["base"][top], notes["decomposed"][top]
            kept = done["distil"].history[-1][f"kept/test/{top}"] if "distil" in done else after
            found |= {f"base/{top}": before, f"decomposed/{top}": after, f"gain/base_{top}": kept - before}
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The design as a schematic; theta's entropy, MACs and the chosen design over the search."""
        return _nas_figures.figures(outcomes)
