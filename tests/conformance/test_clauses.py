"""Clauses of the contract find a method that breaks them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from paredown.conformance import contract as clauses
from paredown.conformance.contract import Broken, Contract
from paredown.core.errors import UserError


def of_keys(monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], folder: Path) -> Contract:
    """A contract of a method that takes the targets of `keys`, each with that key."""

    def prepared(words: list[str]) -> SimpleNamespace:
        (target,) = [word for word in words if word.startswith(("sparsity=", "speed_up="))]
        if target not in keys:
            raise UserError(f"{target} is refused")
        return SimpleNamespace(steps=[SimpleNamespace(key=keys[target])])

    monkeypatch.setattr(clauses, "prepared", prepared)
    return Contract("mine", folder)


@pytest.mark.parametrize(
    "keys",
    [
        {"sparsity=0.7": "a", "sparsity=0.6": "a"},
        {"speed_up=3": "a", "speed_up=2": "a"},
        {"sparsity=0.7": "a", "sparsity=0.5": "b", "speed_up=2": "c", "speed_up=1.5": "c"},
    ],
)
def test_two_targets_of_one_key_are_found(keys: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Broken, match="two have one key"):
        clauses._a_changed_target_changes_a_key(of_keys(monkeypatch, keys, tmp_path))


def test_a_method_of_which_no_two_keys_can_be_compared_is_not_passed(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(Broken, match="no key can be compared"):
        clauses._a_changed_target_changes_a_key(of_keys(monkeypatch, {"speed_up=3": "a"}, tmp_path))


@pytest.mark.parametrize("keys", [{"speed_up=3": "a", "speed_up=2": "b"}, {}])
def test_different_keys_and_no_target_at_all_are_kept(keys: dict, monkeypatch, tmp_path: Path) -> None:
    clauses._a_changed_target_changes_a_key(of_keys(monkeypatch, keys, tmp_path))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("mine takes no target", True),
        ("give speed_up= instead of sparsity=, or speed_up=2", True),
        ("no sparsity, no speed_up", False),
        ("the undermined network has too many layers", False),
    ],
)
def test_a_refusal_names_the_method_or_the_target(said: str, kept: bool, monkeypatch, tmp_path: Path) -> None:
    def refuse(words: list[str]) -> None:
        raise UserError(said)

    monkeypatch.setattr(clauses.walk, "run", refuse)
    if kept:
        clauses._a_target_is_met_or_refused(Contract("mine", tmp_path))
    else:
        with pytest.raises(Broken, match="names neither mine nor sparsity="):
            clauses._a_target_is_met_or_refused(Contract("mine", tmp_path))
