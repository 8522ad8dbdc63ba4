"""The contract of a method, held over every conf/method/*.yaml; `paredown check` holds it over those of others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paredown.conformance.contract import CLAUSES, Clause, Contract, prepared
from paredown.core.config import CONF

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
# one or two of each family are held in the fast suite, the others in the slow one
FAST = {"dense", "ssc", "snip", "magnitude", "rigl", "l1_filters", "alds", "beta_lasso"}
HELD = [pytest.param(one, marks=() if one in FAST else pytest.mark.slow) for one in METHODS]
MARKED = [pytest.param(one, marks=pytest.mark.slow if one.exports else (), id=one.text) for one in CLAUSES]


@pytest.fixture(scope="module", params=HELD)
def contract(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return Contract(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("clause", MARKED)
def test_the_method_keeps(clause: Clause, contract: Contract) -> None:
    clause.check(contract)


@pytest.mark.parametrize("method", METHODS)
def test_a_card_exists(method: str) -> None:
    card = CONF.parent / "docs" / "methods" / f"{method}.md"
    assert card.is_file() and len(card.read_text()) > 500


@pytest.mark.slow
@pytest.mark.long
def test_two_ranks_agree(contract: Contract) -> None:
    """A run ends in an error where what its ranks decide or remember differs."""
    words = [word for word in contract.settings if not word.startswith("output=")]
    words += [f"output={contract.folder / 'ranks'}", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    subprocess.run([sys.executable, "-m", "paredown", "run", *words], check=True, timeout=300)
    experiment = prepared(words)
    assert experiment.machine.ranks == 2 and experiment.store.has(experiment.steps[-1].key)
