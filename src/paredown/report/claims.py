"""Orders of methods that literature reports, held against a ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
SPARSITIES = {"90 %": "sparsity=0.9", "98 %": "sparsity=0.98"}
HALVED = {
    **{"SVD training": "svd_training", "Zhang": "zhang", "Jaderberg": "jaderberg", "TRP": "trp", "ALDS": "alds"},
    **{"L1 filters": "l1_filters", "slimming": "slimming", "group norms": "group_norm"},
    **{"NISP": "nisp", "FPGM": "fpgm"},
}


def _at(share: str, target: str) -> Iterator[Claim]:
    """Yield the orders at the sparsity `target`, which texts call `share`."""
    magnitude, uniform = f"magnitude {target}", f"snip {target} control=uniform"  # SynFlow's and GraSP's are the same
    for name, method in SCORES.items():  # Frankle et al. 2021, Tanaka et al. 2020
        yield Claim(f"magnitude after training is above {name} at {share}", magnitude, f"{method} {target}")
        yield Claim(f"{name} is above random masks of one density at {share}", f"{method} {target}", uniform)
    # Evci et al. 2020, Figure 2 and Table 2
    yield Claim(f"RigL is above SNIP at {share}", f"rigl {target}", f"snip {target}")
    yield Claim(f"SET is above random masks of one density at {share}", f"set {target}", uniform)
    # Mao et al. 2017: the more regular the sparsity, the less accurate
    yield Claim(f"unstructured pruning is above SSC at {share}", magnitude, f"ssc {target}")


CLAIMS = (
    *(claim for share, target in SPARSITIES.items() for claim in _at(share, target)),
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
    # Evci et al. 2020, of the same layer sizes: RigL's own, which keep more MACs, would be compared, too
    Claim(
        "RigL with one density everywhere is above SET at 98 %", "rigl sparsity=0.98 start=uniform", "set sparsity=0.98"
    ),
    # Liu et al. 2019
    Claim(
        "what L1 filters leave at 4x, trained from scratch, is less than a point below them",
        "l1_filters speed_up=4 control=random",
        "l1_filters speed_up=4",
        POINT,
    ),
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


def verdicts(rankings: Sequence[Ranking]) -> Iterator[tuple[str, Verdict]]:
    """Yield the text of each of CLAIMS, and whether it holds in that of `rankings` which has both sides, or which
    setting is in none.

    A claim holds if the mean of its better side, plus its slack, is above that of the worse one by a t test whose
    p-values are adjusted among the claims (Holm)."""
    run = {claim: sides for claim in CLAIMS if (sides := _sides(claim, rankings))}
    adjusted = holm([found.p_value(better, worse, claim.slack) for claim, (found, better, worse) in run.items()])
    judged = {claim: _verdict(*run[claim], claim.slack, p) for claim, p in zip(run, adjusted, strict=True)}
    every = tuple(name for found in rankings for name in found.names)
    for claim in CLAIMS:
        if claim in judged:
            yield claim.text, judged[claim]
        else:
            absent = [words for words in (claim.better, claim.worse) if not _named(words, every)]
            why = f"{NOT_RUN}: {', '.join(absent)}" if absent else f"{NOT_RUN} at equal cost: {claim.better}"
            yield claim.text, (why, "", "")


def _sides(claim: Claim, rankings: Sequence[Ranking]) -> tuple[Ranking, str, str] | None:
    for found in rankings:
        better, worse = (_named(words, found.names) for words in (claim.better, claim.worse))
        if better and worse:
            return found, better, worse
    return None


def _verdict(found: Ranking, better: str, worse: str, slack: float, p: float) -> Verdict:
    lead = found.means[better] - found.means[worse]
    told = HELD if lead + slack > 0 else NOT_HELD
    return (told if p < 1 - found.confidence else NOT_TOLD), f"{lead:+.2f}", f"{p:.2g}"


def _named(words: str, names: tuple[str, ...]) -> str | None:
    """Return the shortest setting that has all of `words`, and a control only if they have one."""
    wanted = set(words.split())
    close = [name for name in names if wanted <= set(name.split()) and ("control=" in name) == ("control=" in words)]
    return min(close, key=len, default=None)
