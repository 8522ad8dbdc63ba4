"""The leaderboard's page, which ranks the settings of a table of runs at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from paredown.core.errors import UserError
from paredown.core.formatting import si
from paredown.frontier.ranking import Ranking, rank
from paredown.frontier.seeds import mean
from paredown.report.claims import NOT_RUN, verdicts
from paredown.report.leaderboard_data import METRICS, TIMES

if TYPE_CHECKING:
    import pandas

DENSE = "dense"  # the method that compresses nothing
NO_TARGET, SPEED_UP = "none", "speed_up"
CLOSE = 0.1  # of a target: dense networks whose MACs differ less are ranked beside what reaches it
SHOWN = ("bytes", "images", "other_images")


def ranking(table: pandas.DataFrame) -> Ranking:
    """Rank the settings of `table` by top-1. Raise UserError as `rank` raises ValueError."""
    try:
        return rank({str(name): group["top1"].to_numpy(float) for name, group in table.groupby("setting")})
    except ValueError as error:
        raise UserError(f"the leaderboard cannot be ranked: {error}") from error


def timed_alike(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return `table` with the times of one device, that which timed most settings: others are not comparable."""
    timed = table[table[list(TIMES)].notna().any(axis=1)]
    if timed.empty:
        return table
    device = timed.groupby("device")["setting"].nunique().idxmax()
    return table.assign(**{name: table[name].where(table["device"] == device) for name in TIMES})


def split(table: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return the rows of dense networks and of compressions that see images, and those of compressions that see none:
    their seeds scatter far more. All rows of a setting go together; one that an older version recorded without its
    images goes with the other seeds, or with those that see images."""
    most = table.groupby("setting")["compression_images"].transform("max")
    without = (most == 0) & (table["method"] != DENSE)
    return table[~without], table[without]


def page(table: pandas.DataFrame, picture: str, data: str) -> str:
    """Return the page of `table` in Markdown, with links to the files `picture` and `data`."""
    table = timed_alike(table)
    whole = table[table["method"] == DENSE].groupby("model")["macs"].max().to_dict()
    seen, unseen = split(table)
    found, settings = ranking(seen), _settings(table, whole)
    parts = {title: found.among(names) for title, names in _targets(settings.loc[list(found.names)]).items()}
    lines = [*_head(table, parts, picture, data), "", *RANKS_TEXT.splitlines()]
    for title, part in parts.items():
        lines += ["", f"### {title}", "", *_ranks(part, settings)]
    if not unseen.empty:
        lines += ["", *UNSEEN_TEXT.splitlines(), "", *_unseen(unseen, settings)]
    return "\n".join([*lines, "", *_claims(found)]) + "\n"


def _settings(table: pandas.DataFrame, whole: Mapping[str, float]) -> pandas.DataFrame:
    """Return a row for each setting of `table`: the means of its runs, with the number of its seeds, `spread` (their
    standard deviation), method and target. `whole` holds the MACs of the dense network by model: the recorded speed-up
    of a smaller dense network is against itself."""
    groups = table.groupby("setting")
    rows = groups.agg(dict.fromkeys(METRICS, lambda column: mean(column.dropna())))
    rows = rows.join(groups.agg(seeds=("seed", "nunique"), spread=("top1", "std")))
    rows = rows.join(groups[["method", "target", "model"]].first())
    rows["speed_up"] = rows["model"].map(whole).fillna(rows["macs"] * rows["speed_up"]) / rows["macs"]
    return rows


def _targets(settings: pandas.DataFrame) -> dict[str, set[str]]:
    """Return the names of the `settings` that are ranked together, by title: those of one target, and the dense
    networks of about as many MACs beside what has fewer of them."""
    dense = settings[settings["method"] == DENSE]
    parts = {"Dense": set(dense.index)} if len(dense) else {}
    for target in sorted(set(settings["target"]) - {NO_TARGET}, key=_order):
        names = set(settings.index[settings["target"] == target])
        quantity, value = _order(target)
        if quantity == SPEED_UP:
            names |= set(dense.index[(dense["speed_up"] / value - 1).abs() < CLOSE])
        parts[_title(target)] = names
    if loose := set(settings.index[settings["target"] == NO_TARGET]) - set(dense.index):
        parts["Without a target"] = loose
    return parts


def _order(target: str) -> tuple[str, float]:
    """Return the quantity and the value of `target`, by which targets are sorted."""
    quantity, _, value = target.partition("=")
    return quantity, float(value or 0)


def _title(target: str) -> str:
    quantity, value = _order(target)
    titles = {SPEED_UP: f"{value:g}x fewer multiply-adds", "sparsity": f"{100 * value:g} % sparsity"}
    return titles.get(quantity, target)


def _unseen(table: pandas.DataFrame, settings: pandas.DataFrame) -> Iterator[str]:
    if table.groupby("setting").size().max() > 1:
        yield from _ranks(ranking(table), settings)
    else:
        yield f"Not ranked yet, since no setting has two seeds: {', '.join(sorted(set(table['setting'])))}."


def _head(table: pandas.DataFrame, parts: Mapping[str, Ranking], picture: str, data: str) -> Iterator[str]:
    own, images = table[table["control"] == ""], table["images"].max()
    budget = "" if math.isnan(images) else f", at most {int(images):,} training images for all stages of a plan"
    methods, settings = own["method"].nunique(), own["setting"].nunique()
    counts = f"{methods} methods, {settings} settings, {table['setting'].nunique() - settings} controls"
    yield "# Leaderboard"
    yield ""
    yield "Written by `make leaderboard` from what is recorded, not by hand."
    yield ""
    yield f"{_each(table['model'])} on {_each(table['dataset'])}{budget}."
    yield f"{counts}, {table['seed'].nunique()} seeds, {len(table)} runs."
    spent = f"{int(table['trainings'].sum())} trainings, {table['hours'].sum():.1f} hours of all processes together"
    yield f"Trained on {_each(table['device'])}: {spent}; what several plans share counts once."
    pairs = sum(len(part.adjusted) for part in parts.values())
    apart = sum(part.told_apart * len(part.adjusted) for part in parts.values()) / max(1, pairs)
    yield f"Of {pairs} pairs of settings that are ranked together {100 * apart:.0f} % are told apart."
    yield f"Data of every run: [{data}]({data})."
    yield ""
    yield f"![Accuracy against multiply-adds, measured latency, bytes and images]({picture})"
    yield ""
    yield (
        "Each method is named at its best point; controls, what sees no training images, and settings below half of "
        "the best accuracy are in the tables alone."
    )


def _each(column: pandas.Series[str]) -> str:
    return ", ".join(sorted(set(column)))


RANKS_TEXT = """## Ranks

The settings of one target, and beside fewer multiply-adds the dense networks with as few, up to a tenth.
Top-1 of the deployed network after the last epoch, mean over the seeds with a 95 % confidence interval, and the
standard deviation of the seeds. Settings that share a letter are not told apart: t tests of all pairs of a
table, corrected by Holm's method. The variance of a setting is drawn towards that of all, as far as they agree (Smyth
2004): three seeds alone say little of it. Plans that begin with the same dense training share it, seed by seed, which
makes the tests cautious.
Latency: the fastest exact form of the network on one thread, of one seed, and in brackets how many times as fast a
compressed network was as the fastest form of the dense one in the same turns; empty where it was not timed, or on
another device than most settings. Other images: of searches, scoring, distillation and batch norms.
"""
UNSEEN_TEXT = """## Without training data

The dense networks after their whole training, compressed without another image. Ranked among themselves.
"""
HEAD = " | ".join(
    (
        *("rank", "setting", "seeds", "top-1", "95 %", "sd", "groups", "MACs", "fewer than dense", "sparsity"),
        *("ms, 1 image", "ms, 32", "bytes", "images", "other images"),
    )
)


def _ranks(found: Ranking, settings: pandas.DataFrame) -> Iterator[str]:
    yield f"| {HEAD} |"
    yield f"|{'---|' * (HEAD.count('|') + 1)}"
    for place, name in enumerate(found.names, start=1):
        row = settings.loc[name]
        accuracy = [f"{row['top1']:.2f}", interval(found, name), _shown(row["spread"], "{:.2f}"), found.letters[name]]
        cells = [place, name, row["seeds"], *accuracy, _shown(row["macs"]), _shown(row["speed_up"], "{:.2f}x")]
        cells += [f"{100 * row['sparsity']:.1f} %" if row["sparsity"] > 0 else ""]
        cells += [
            *(_timed(row, batch, row["method"] != DENSE) for batch in TIMES),
            *(_shown(row[key]) for key in SHOWN),
        ]
        yield f"| {' | '.join(map(str, cells))} |"


def _timed(row: pandas.Series[float], name: str, compressed: bool) -> str:
    """Return the time `name`; of a `compressed` network the dense one's in the same turns over it, too."""
    ratio = row[f"dense_{name}"] / row[name] if compressed else math.nan
    return _shown(row[name]) + ("" if math.isnan(ratio) else f" ({ratio:.2f}x)")


def interval(found: Ranking, name: str) -> str:
    """Return the confidence interval of an accuracy in percent, which ends at 0 and at 100."""
    low, high = found.means[name] - found.half_width[name], found.means[name] + found.half_width[name]
    return f"{max(0.0, low):.2f} to {min(100.0, high):.2f}"


def _shown(value: float, form: str = "") -> str:
    """Return `value` in `form`, or with an SI prefix; nothing where it is not recorded."""
    return "" if math.isnan(value) else form.format(value) if form else si(value)


def _claims(found: Ranking) -> Iterator[str]:
    rows = list(verdicts(found))
    judged = [(claim, verdict) for claim, verdict in rows if not verdict[0].startswith(NOT_RUN)]
    waiting = [f"{claim}, {verdict[0]}" for claim, verdict in rows if verdict[0].startswith(NOT_RUN)]
    yield "## What literature says"
    yield ""
    if judged:
        yield CLAIMS_TEXT
        yield ""
        yield "| claim | here | difference of top-1 | adjusted p |"
        yield "|---|---|---|---|"
        for claim, verdict in judged:
            yield f"| {claim} | {' | '.join(verdict)} |"
    if waiting:
        yield ""
        yield "Cannot be judged yet:"
        yield ""
        yield from (f"* {line}" for line in waiting)


CLAIMS_TEXT = """Held: the two settings are told apart in the order of the claim; not held: in the other; not told: not
told apart. A claim that allows for a point is held where a loss of a point or more is ruled out, and not held where
less is. Two-sided t tests with the variances of the ranks, corrected among these claims by Holm's method."""
