"""The leaderboard's page, which ranks the settings of a table of runs at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paredown.core.errors import UserError
from paredown.core.formatting import grouped, si
from paredown.core.target import Target
from paredown.frontier.ranking import Ranking, rank
from paredown.frontier.seeds import mean
from paredown.report.claims import NOT_RUN, verdicts
from paredown.report.formatting import markdown
from paredown.report.leaderboard_data import METRICS, TIMES, target_of

if TYPE_CHECKING:
    import pandas

DENSE = "dense"  # the method that compresses nothing
CLOSE = 0.1  # of a speed-up: dense networks whose own differs less are ranked beside what reaches it
SHOWN = ("bytes", "images", "other_images")
UNRANKED = "the leaderboard cannot be ranked"
SAME = 6  # decimals of the size of two dense networks that are one, as the file rounds its numbers


def rankings(table: pandas.DataFrame) -> dict[str, Ranking]:
    """Return the rankings by top-1 of the settings of `table` that are compared, by title; a part none of whose
    settings has two seeds has none. Raise UserError where there is none at all, and for an accuracy that is NaN."""
    if table.empty:
        raise UserError(f"{UNRANKED}: no setting sees training images, beside which those without are ranked")
    several = table.groupby("setting").size() > 1
    parts = {title: names for title, names in _parts(table).items() if several[list(names)].any()}
    if not parts:
        raise UserError(f"{UNRANKED}: no setting has two seeds: nothing says how much they vary")
    return {title: _ranking(table[table["setting"].isin(names)]) for title, names in parts.items()}


def half_widths(found: Mapping[str, Ranking]) -> dict[str, float]:
    """Return that of the confidence interval of each setting of `found`; of two rankings, in the first."""
    return {name: half for part in reversed([*found.values()]) for name, half in part.half_width.items()}


def _ranking(table: pandas.DataFrame) -> Ranking:
    try:
        return rank({str(name): group["top1"].to_numpy(float) for name, group in table.groupby("setting")})
    except ValueError as error:
        raise UserError(f"{UNRANKED}: {error}") from error


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
    """Return the page of `table` in Markdown, with links to the files `picture` and `data`. Raise UserError for runs of
    more than one model or data set, and as `ranking`."""
    for name in ("model", "dataset"):
        if len(several := sorted(set(table[name]))) > 1:
            raise UserError(f"a leaderboard is of one {name}, these runs are of {', '.join(several)}")
    table = timed_alike(table)
    (seen, unseen), settings = split(table), _settings(table)
    found = rankings(seen)
    without = _ranking(unseen) if len(unseen) and unseen.groupby("setting").size().max() > 1 else None
    every = [*found.values(), *([without] if without else [])]
    lines = [*_head(table, picture, data, every), "", *RANKS_TEXT.splitlines()]
    for title, names in _parts(seen).items():
        lines += ["", f"### {title}", "", *_ranks(found.get(title), names, settings)]
    if not unseen.empty:
        lines += ["", *UNSEEN_TEXT.splitlines(), "", *_ranks(without, set(unseen["setting"]), settings)]
    return "\n".join([*lines, "", *_claims(list(found.values()))]) + "\n"


def _settings(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a row for each setting of `table`: the means of its runs, with the number of its seeds, `spread` (their
    standard deviation), method, target, control, `of`, `dense_macs` (of the dense network that its target is relative
    to, at whose `size`, as a share of the largest), and `missed` (the target, by more than its tolerance). Speed-ups
    are against the largest network: the recorded one of a smaller dense network is against itself."""
    groups = table.groupby("setting")
    rows = groups.agg(dict.fromkeys(METRICS, lambda column: mean(column.dropna())))
    rows = rows.join(groups.agg(seeds=("seed", "nunique"), spread=("top1", "std")))
    rows = rows.join(groups[["method", "target", "control", "of"]].first())
    own = (table["macs"] * table["speed_up"]).groupby(table["setting"]).max()
    smaller = (rows["method"] == DENSE) | (rows["control"] == DENSE)
    rows["dense_macs"] = own.mask(smaller, rows["of"].map(own)).fillna(own.max())
    rows["size"] = (rows["dense_macs"] / own.max()).round(SAME).fillna(1.0)
    rows["speed_up"] = rows["dense_macs"] / rows["macs"]
    rows["missed"] = [_missed(row) for _, row in rows.iterrows()]
    rows["speed_up"] = own.max() / rows["macs"]
    return rows


def _missed(row: pandas.Series[Any]) -> bool:
    target = target_of(row["target"])
    reached = row.get(target.quantity, math.nan) if target else math.nan
    return target is not None and abs(reached - target.value) > target.tolerance


def _parts(table: pandas.DataFrame) -> dict[str, set[str]]:
    """Return the names of the settings of `table` that are ranked together, by title: those of one target of one dense
    network, and with a speed-up the dense networks of about the same."""
    settings = _settings(table)
    dense = settings.index[settings["method"] == DENSE]
    parts = {"Dense": set(dense)} if len(dense) else {}
    targets = {target for text in settings["target"] if (target := target_of(text))}
    for target in sorted(targets, key=lambda target: (target.quantity, target.value)):
        for size, rows in sorted(settings[settings["target"] == str(target)].groupby("size"), reverse=True):
            names = set(rows.index)
            if target.quantity == "speed_up":
                close = (settings.loc[dense, "speed_up"] * size / target.value - 1).abs() < CLOSE
                names |= set(dense[close])
            parts[_title(target) + _of_smaller(size, rows)] = names
    if loose := set(settings.index) - set().union(*parts.values()):
        parts["Without a target"] = loose
    return parts


def _of_smaller(size: Any, rows: pandas.DataFrame) -> str:
    return "" if size == 1 else f", of a dense network of {grouped(rows['dense_macs'].max())} MACs"


def _title(target: Target) -> str:
    titles = {
        "speed_up": f"{target.value:g}x fewer multiply-adds",
        "sparsity": f"{100 * target.value:g} % sparsity",
        "latency_speed_up": f"{target.value:g}x as fast",
    }
    return titles[target.quantity]


def _head(table: pandas.DataFrame, picture: str, data: str, rankings: Sequence[Ranking]) -> Iterator[str]:
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
    pairs = {pair: found.apart(*pair) for found in reversed(rankings) for pair in found.adjusted}
    if pairs:
        share = f"{100 * sum(pairs.values()) / len(pairs):.0f} %"
        yield f"Of {len(pairs)} pairs of settings that are ranked together {share} are told apart."
    yield f"Data of every run: [{data}]({data})."
    yield ""
    yield f"![Accuracy against multiply-adds, measured latency, bytes and images]({picture})"
    yield ""
    yield (
        "Each method is named at its best point; controls, what sees no training images, and settings below half of "
        "the best accuracy are in the tables alone."
    )


def _each(column: pandas.Series[str]) -> str:
    return ", ".join(markdown(text) for text in sorted(set(column)))


RANKS_TEXT = """## Ranks

The settings of one target, and in the tables of a speed-up the dense networks whose own differs by less than a tenth.
A setting that missed its target by more than its tolerance (5 % of a speed-up, 0.01 of a sparsity) says so.
Top-1 of the deployed network after the last epoch, mean over the seeds with a 95 % confidence interval, and the
standard deviation of the seeds. Settings that share a letter are not told apart: t tests of all pairs of a table,
corrected by Holm's method. The variance of a setting is drawn towards that of its table at its accuracy, as far as
they agree (Smyth 2004; a trend as of Law et al. 2014, from six settings on): three seeds alone say little of it. Plans
that begin with the same dense training share it, seed by seed, which makes the tests cautious.
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


def _ranks(found: Ranking | None, names: Collection[str], settings: pandas.DataFrame) -> Iterator[str]:
    if found is None:
        yield f"Not ranked yet, since no setting has two seeds: {', '.join(map(markdown, sorted(names)))}."
        return
    yield f"| {HEAD} |"
    yield f"|{'---|' * (HEAD.count('|') + 1)}"
    for place, name in enumerate(found.names, start=1):
        row = settings.loc[name]
        accuracy = [f"{row['top1']:.2f}", interval(found, name), _shown(row["spread"], "{:.2f}"), found.letters[name]]
        cells = [
            place,
            f"{markdown(name)} (missed)" if row["missed"] else markdown(name),
            row["seeds"],
            *accuracy,
            _shown(row["macs"]),
            _shown(row["speed_up"], "{:.2f}x"),
        ]
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


def _claims(rankings: Sequence[Ranking]) -> Iterator[str]:
    rows = list(verdicts(rankings))
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
        yield "Cannot be judged yet (settings that see no training images are not judged):"
        yield ""
        yield from (f"* {line}" for line in waiting)


CLAIMS_TEXT = """Held: the means differ significantly, in the order of the claim; not held: in the other; not told: they
do not. A claim that allows for a point is held where a loss of a point or more is ruled out, and not held where a
smaller one is. Two-sided t tests with the variances of the ranks, corrected among these claims by Holm's method, so
that two settings of one letter may differ here: a table has more pairs."""
