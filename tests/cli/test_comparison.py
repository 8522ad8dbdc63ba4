"""The comparison of methods is what the cards say, and the cards say what is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.cli import choices, comparison
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.experiment.prepare import prepare
from paredown.published.table import load

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "README.md"


def test_every_card_has_what_the_comparison_needs() -> None:
    assert not comparison.missing(), "\n".join(comparison.missing())


def test_the_page_is_what_the_script_writes() -> None:
    text = PAGE.read_text()
    assert text == comparison.written_into(text), "run python scripts/methods.py"
    assert all(f"[`{name}`]({name}.md)" in text for name in comparison.methods())


def test_every_published_row_of_a_method_is_counted_at_one() -> None:
    rows = load()
    counted = sum(
        int(part.split(" in ")[0])
        for name in comparison.methods()
        if (said := comparison._published(name)) != "none"
        for part in said.split(", ")
    )
    assert counted == (rows["method"] != "").sum()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# No head", "no metadata at its head"),
        ("---\nfamily: sparse\n---\n\n# x", "needs_data is None, not text"),
        ("---\nfamily: sparse\nneeds_trained: perhaps\n---\n\n# x", "needs_trained is 'perhaps', not true or false"),
    ],
)
def test_what_is_missing_is_named(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.md").write_text(text)
    monkeypatch.setattr(choices, "CARDS", tmp_path)
    monkeypatch.setattr(comparison, "methods", lambda: ["new"])
    assert any(f"docs/methods/new.md: {said}" in line for line in comparison.missing())


@pytest.mark.parametrize("method", comparison.methods())
def test_the_targets_of_the_card_are_those_that_are_taken(method: str, tmp_path: Path) -> None:
    words = [f"method={method}", "dataset=digits", "model=resnet20", "model.depth=8", f"output={tmp_path}"]
    taken = {quantity for quantity, values in TRIED.items() if any(takes(words, quantity, value) for value in values)}
    assert set(choices.metadata(method)["targets"]) == taken


# a small network reaches not all of them
TRIED = {"sparsity": (0.5, 0.7), "speed_up": (1.5, 2, 3), "latency_speed_up": (1.0001,)}


def takes(words: list[str], quantity: str, value: float) -> bool:
    try:
        return bool(prepare(compose([*words, f"{quantity}={value}"])).steps)
    except UserError:
        return False


def test_an_explanation_compares_with_the_siblings() -> None:
    text = choices.describe("method", "lr_s2")
    assert "At a glance" in text and "Its siblings" in text and "zhang" in text and "targets" in text
