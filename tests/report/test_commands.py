"""Commands that run a recorded experiment again."""

from __future__ import annotations

import shlex

import pytest

from paredown.core.config import compose
from paredown.report.commands import UNTYPED, command
from paredown.tracking.tracker import flatten

WORDS = ("method=ssc", "model=resnet20", "dataset=digits", "sparsity=0.7", "seed=3", "recipe.milestones=[0.25,0.5]")
WORDS += ("recipe.optimizer=adam", "debug=fast", "method.parity=block", "deploy=auto")


def recorded(*words: str) -> dict[str, str]:
    """The parameters of a run, as its tracker flattens them."""
    return dict(flatten(compose(list(words))))


def test_the_command_composes_to_what_was_recorded() -> None:
    params = recorded(*WORDS)
    python, script, *words = shlex.split(command(params))
    assert (python, script) == ("python", "src/run.py")
    again = recorded(*words)
    assert {n: v for n, v in again.items() if not n.startswith(UNTYPED)} == {
        n: v for n, v in params.items() if not n.startswith(UNTYPED)
    }
    assert len(words) == len(WORDS) + 1  # the recipe, which follows from the data set, is named too


def test_a_seed_is_always_said() -> None:
    assert command(recorded("method=dense", "dataset=digits")).endswith("recipe=digits seed=0")


@pytest.mark.parametrize(
    "changed",
    [
        {"names.method": "../../evil"},
        {"names.method": "ssc hydra.run.dir=/tmp"},
        {"names.model": "mine"},  # of a folder that was added to the search path
        {"method._target_": "os.system"},
        {"model.source": "/tmp/net.py:make"},  # whoever types it trusts it
        {"trust": '["evil"]'},
        {"recipe.optimizer": "${oc.env:HOME}"},
        {"recipe.of_an_older_version": "7"},
        {"transfer.dataset.name": "digits"},
        {"names.recipe": "null"},
        {"names.model": "mine", "names.debug": "fast"},
        {"names.debug": "mine"},
    ],
)
def test_no_command_where_none_would_be_the_same_or_safe(changed) -> None:
    params = recorded("method=ssc", "dataset=digits", "sparsity=0.5")
    assert command(params)
    assert command(params | changed) == ""


@pytest.mark.parametrize("text", ["a b; rm -rf ~", "$(id)", "it's", "a,b", "[1", "\\'x", "0.5", "null"])
def test_a_recorded_text_is_one_word_of_the_shell_and_of_hydra(text) -> None:
    params = recorded("method=ssc", "dataset=digits", "sparsity=0.5") | {"recipe.optimizer": text}
    words = shlex.split(command(params))
    typed = [word for word in words if word.startswith("recipe.optimizer=")]
    again = recorded(*words[2:])
    assert len(typed) == 1 and again["recipe.optimizer"] == text


def test_runs_without_choices_have_none() -> None:
    assert command({"sparsity": "0.5", "seed": "0"}) == ""
