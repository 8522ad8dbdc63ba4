"""The values that a method plans: what an edit and a fit are made of, and what they refuse."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from functools import partial
from typing import Any

import pytest
from torch import nn

from paredown.core.keys import described, digest, identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target


@identity("test/cut", version=3, kinds=["masked"])
def cut(network: Network, context: Any, goal: Goal, least: int = 1) -> None:
    """An edit to plan."""


class Bound:
    """Whose method holds values that no key would see."""

    @identity("test/bound")
    def cut(self, network: Network, context: Any) -> None: ...


def test_an_edit_is_its_functions_name_and_its_values() -> None:
    edits = [Edit("prune", cut, {"goal": Goal("energy", value)}) for value in (0.1, 0.1, 0.2)]
    assert digest(edits[0]) == digest(edits[1]) != digest(edits[2])
    assert digest(Edit("other", cut, edits[0].arguments)) != digest(edits[0])  # `Context.earlier` goes by the name
    told = described(edits[0])
    assert told["function"] == "test/cut@3" and told["arguments"]["goal"]["value"] == 0.1


def test_an_edit_needs_a_function_that_stands_alone() -> None:
    with pytest.raises(TypeError, match="values of its own"):
        Edit("cut", Bound().cut)
    with pytest.raises(TypeError, match="has no name for keys"):
        Edit("cut", lambda network, context: None)
    with pytest.raises((TypeError, AttributeError)):
        Edit("cut", partial(cut, least=2))  # type: ignore[arg-type]


def test_stages_are_values() -> None:
    fit = Fit("train", Recipe(epochs=2))
    assert fit == Fit("train", Recipe(epochs=2)) and fit.hooks == ()
    for stage, name in ((fit, "recipe"), (Edit("cut", cut), "arguments")):
        with pytest.raises(FrozenInstanceError):
            setattr(stage, name, None)


@dataclass(frozen=True)
class Plain(Method):
    """The least that a method is."""

    rank: int = 2

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        return [Fit("train", recipe), Edit("prune", cut, {"goal": Goal.of(target) if target else Goal("energy", 0.1)})]


def test_a_method_says_nothing_of_its_own_unless_it_wants_to() -> None:
    network = Network(nn.Linear(1, 1), {}, (1, 1, 1))
    stages = Plain().plan(Target("sparsity", 0.5), network, Recipe(epochs=1))
    outcomes = [Outcome(stage, [], {}, lambda: network, dict) for stage in stages]
    assert Plain().metrics(outcomes) == Plain().figures(outcomes) == {}
    Plain().check(network, None)
    with pytest.raises(TypeError, match="abstract"):
        Method()  # type: ignore[abstract]


def test_two_targets_make_two_keys_and_a_method_knows_none() -> None:
    network = Network(nn.Linear(1, 1), {}, (1, 1, 1))
    plans = [Plain().plan(Target("sparsity", value), network, Recipe(epochs=1)) for value in (0.5, 0.9)]
    assert digest(plans[0][0]) == digest(plans[1][0]) and digest(plans[0][1]) != digest(plans[1][1])
