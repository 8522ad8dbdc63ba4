"""Orders that literature reports: held, not held, not told, or not run."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from paredown.cli import choices, comparison
from paredown.core.places import SWEEPS
from paredown.core.yaml_files import read_yaml
from paredown.frontier.ranking import Ranking, rank
from paredown.report.claims import CLAIMS, _named, verdicts

MAGNITUDE, SNIP = "magnitude sparsity=0.98 epochs=40", "snip sparsity=0.98"
SHUFFLE = f"{SNIP} control=random"


def ranked(spread: float = 0.1, **means: float) -> Ranking:
    names = {"magnitude": MAGNITUDE, "snip": SNIP, "shuffle": SHUFFLE, "uniform": f"{SNIP} control=uniform"}
    return rank({names[name]: np.array([-spread, 0.0, spread]) + value for name, value in means.items()})


def of(found: Ranking, words: str) -> tuple[str, str, str]:
    (verdict,) = [verdict for text, verdict in verdicts([found]) if text.startswith(words) and "90 %" not in text]
    return verdict


@pytest.mark.parametrize(
    ("magnitude", "spread", "says"), [(61.0, 0.1, "held"), (59.0, 0.1, "not held"), (61.0, 5.0, "not told")]
)
def test_an_order_needs_settings_that_are_told_apart(magnitude: float, spread: float, says: str) -> None:
    found = ranked(spread, magnitude=magnitude, snip=60.0)
    here, lead, p = of(found, "magnitude after training is above SNIP")
    raw = stats.ttest_ind(*(np.array([-spread, 0, spread]) + mean for mean in (magnitude, 60.0))).pvalue
    assert (here, lead, p) == (says, f"{magnitude - 60:+.2f}", f"{raw:.2g}")


@pytest.mark.parametrize(
    ("shuffle", "spread", "says"),
    [(60.0, 0.1, "held"), (60.5, 0.1, "held"), (59.5, 0.1, "held"), (58.0, 0.1, "not held"), (60.0, 1.0, "not told")],
)
def test_what_costs_nothing_must_rule_out_a_loss_of_a_point(shuffle: float, spread: float, says: str) -> None:
    """That two settings are not told apart is no proof that they are equal."""
    found = ranked(spread, snip=60.0, shuffle=shuffle)
    here, lead, p = of(found, "a layer-wise shuffle of SNIP costs less than a point")
    one, other = (np.array([-spread, 0, spread]) + mean for mean in (shuffle, 60.0))
    a_point = stats.ttest_ind(one + 1, other).pvalue
    assert (here, lead, p) == (says, f"{shuffle - 60:+.2f}", f"{a_point:.2g}")


def test_claims_are_adjusted_among_themselves() -> None:
    """Of the three pairs of these settings two are claims: Holm's method doubles the smaller p-value of the two."""
    found = ranked(0.3, magnitude=61.0, snip=60.0, uniform=59.5)
    sample = np.array([-0.3, 0.0, 0.3])
    error = np.sqrt(2 * sample.var(ddof=1) / 3)
    larger, smaller = (2 * stats.t.sf(lead / error, 6) for lead in (0.5, 1.0))
    assert of(found, "magnitude after training is above SNIP")[2] == f"{2 * smaller:.2g}"
    assert of(found, "SNIP is above random")[2] == f"{larger:.2g}"


def test_the_side_that_is_missing_is_named() -> None:
    found = ranked(magnitude=61.0, snip=60.0)
    assert of(found, "SNIP is above random") == ("not run: snip sparsity=0.98 control=uniform", "", "")
    assert of(found, "magnitude after training is above GraSP") == ("not run: grasp sparsity=0.98", "", "")
    assert of(found, "unstructured") == ("not run: ssc sparsity=0.98", "", "")
    shares = [text for text, verdict in verdicts([found]) if "magnitude sparsity=0.9," in verdict[0]]
    assert len(shares) == 4 and all(text.endswith("at 90 %") for text in shares)
    assert of(ranked(snip=60.0, uniform=50.0), "SNIP is above random")[0] == "held"
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS) == len(list(verdicts([found])))


def test_a_control_is_not_taken_for_its_point() -> None:
    names = (SHUFFLE, SNIP, "snip sparsity=0.9", "dense resnet20 width=0.6875", "dense resnet20 width=1")
    assert _named("snip sparsity=0.98", names) == SNIP
    assert _named("snip sparsity=0.98 control=random", names) == SHUFFLE
    assert _named("dense width=0.6875", names) == "dense resnet20 width=0.6875"
    assert _named("grasp sparsity=0.98", names) is None


def test_the_sweep_has_both_sides_of_every_order() -> None:
    points = read_yaml(SWEEPS / "leaderboard_cifar10.yaml", "restore it")["points"]
    names = [name for point in points for name in settings(point)]
    assert {
        words for claim in CLAIMS for words in (claim.better, claim.worse) if not _named(words, tuple(names))
    } == set()


def test_the_sweep_has_every_method_that_takes_a_target() -> None:
    points = read_yaml(SWEEPS / "leaderboard_cifar10.yaml", "restore it")["points"]
    there = {word.removeprefix("method=") for point in points for word in point if word.startswith("method=")}
    assert there >= {name for name in comparison.methods() if choices.metadata(name)["targets"]}


def settings(point: list[str]) -> list[str]:
    """Return the names of the settings of a point of the sweep, its controls' among them, as reports write them."""
    given = dict(word.split("=", 1) for word in point)
    method, controls = given.pop("method"), given.pop("controls", "")
    given = ({"rewind": "0"} if method == "lottery" else {}) | {
        key.split(".")[-1]: value for key, value in given.items()
    }
    name = " ".join([method, *(f"{key}={value}" for key, value in given.items())])
    return [name, *(f"{name} control={control}" for control in ("random", "uniform") if control in controls)]
