"""Orders of methods that literature reports, held against a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paredown.frontier.ranking import Ranking, holm

HELD, NOT_HELD, NOT_TOLD, NOT_RUN = "held", "not held", "not told", "not run"
POINT = 1.0  # of top-1: less than this is as good as nothing where a claim says that something costs nothing
Verdict = tuple[str, str, str]  # itself, the difference, its adjusted p-value


@dataclass(frozen=True)
class Claim:
    """That the setting with the words `better` is above the one with `worse`, or, with `slack`, not so many points
    below it."""

    text: str
    better: str
    worse: str
    slack: float = 0.0


SCORES = {"SNIP": "snip", "GraSP": "grasp", "SynFlow": "synflow"}
HALVED = {
    **{"SVD training": "svd_training", "Zhang": "zhang", "Jaderberg": "jaderberg", "TRP": "trp", "ALDS": "alds"},
    **{"L1 filters": "l1_filters", "slimming": "slimming", "group norms": "group_norm"},
}
CLAIMS = (
    # Frankle et al. 2021, Tanaka et al. 2020
    *(
        Claim(f"magnitude after training is above {name} at 98 %", "magnitude sparsity=0.98", f"{method} sparsity=0.98")
        for name, method in SCORES.items()
    ),
    *(
        Claim(
            f"{name} is above random masks of one density at 98 %",
            f"{method} sparsity=0.98",
            "sparsity=0.98 control=uniform",  # of whichever method: they are the same
        )
        for name, method in SCORES.items()
    ),
    # Su et al. 2020, Frankle et al. 2021
    *(
        Claim(
            f"a layer-wise shuffle of {name} costs less than a point at 98 %",
            f"{SCORES[name]} sparsity=0.98 control=random",
            f"{SCORES[name]} sparsity=0.98",
            POINT,
        )
        for name in ("SNIP", "GraSP")
    ),
    # Frankle et al. 2020
    Claim(
        "rewinding to the first epoch is above first values at 98 %",
        "lottery sparsity=0.98 rewind=1",
        "lottery sparsity=0.98 rewind=0",
    ),
    Claim("unstructured pruning is above SSC at 90 %", "magnitude sparsity=0.9", "ssc sparsity=0.9"),
    # Liu et al. 2019, Blalock et al. 2020
    *(
        Claim(
            f"a smaller dense network is less than a point below {name} at 2x",
            "dense width=0.6875",
            f"{method} speed_up=2",
            POINT,
        )
        for name, method in HALVED.items()
    ),
)


def verdicts(found: Ranking) -> Iterator[tuple[str, Verdict]]:
    """Yield the text of each of CLAIMS, and whether it holds in the ranking `found`, or which setting is not in it."""
    sides = {claim: [_named(words, found.names) for words in (claim.better, claim.worse)] for claim in CLAIMS}
    run = {claim: (better, worse) for claim, (better, worse) in sides.items() if better and worse}
    slack = [claim for claim in run if claim.slack]
    ruled_out = dict(zip(slack, holm([found.no_worse(*run[claim], claim.slack) for claim in slack]), strict=True))
    for claim in CLAIMS:
        if claim in run:
            yield claim.text, _verdict(found, *run[claim], ruled_out.get(claim))
        else:
            names = zip((claim.better, claim.worse), sides[claim], strict=True)
            yield claim.text, (f"{NOT_RUN}: {', '.join(words for words, name in names if not name)}", "", "")


def _verdict(found: Ranking, better: str, worse: str, ruled_out: float | None) -> Verdict:
    """Return what the means of `better` and `worse` say; `ruled_out` is the p-value of a loss of the claim's slack."""
    lead, p = found.means[better] - found.means[worse], found.adjusted[frozenset((better, worse))]
    if ruled_out is not None:
        held = ruled_out < 1 - found.confidence
        return (HELD if held else _opposite(found, better, worse)), f"{lead:+.2f}", f"{ruled_out:.2g}"
    told = HELD if lead > 0 and found.apart(better, worse) else _opposite(found, better, worse)
    return told, f"{lead:+.2f}", f"{p:.2g}"


def _opposite(found: Ranking, better: str, worse: str) -> str:
    is_below = found.means[better] < found.means[worse]
    return NOT_HELD if is_below and found.apart(better, worse) else NOT_TOLD


def _named(words: str, names: tuple[str, ...]) -> str | None:
    """Return the setting of the fewest words that has all of `words`, and a control only if they have one."""
    wanted = set(words.split())
    close = [name for name in names if wanted <= set(name.split()) and ("control=" in name) == ("control=" in words)]
    return min(close, key=len, default=None)
