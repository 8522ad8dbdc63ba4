"""What the points of a report cost to make: each stage's price, once, however many runs share it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

KINDS = ("epochs", "seconds", "macs")


@dataclass(frozen=True)
class Price:
    """`settings`: per setting the mean `epochs`, `seconds` and `macs` of a run's whole plan, `shared` (the share of its
    seconds in stages that other runs use too) and `runs`. `total`: all stages once; `saved`: what sharing spared;
    `stages`, `reused`: how many distinct ones, and how often one was used again. `unknown`: runs that recorded none."""

    settings: pandas.DataFrame
    total: dict[str, float]
    saved: dict[str, float]
    stages: int
    reused: int
    unknown: int


def price(runs: pandas.DataFrame) -> Price:
    """The price of `runs` (`setting`, `price`, `stages`). A stage is the same where its key is."""
    import pandas

    known = runs[[isinstance(entries, list) and len(entries) == len(stages) for entries, stages in _pairs(runs)]]
    uses = Counter(entry["key"] for entries in known["price"] for entry in entries)
    once = {entry["key"]: entry for entries in known["price"] for entry in entries}
    rows = [_row(row["setting"], row["price"], uses) for _, row in known.iterrows()]
    table = pandas.DataFrame(rows, columns=["setting", *KINDS, "shared"])
    means = table.groupby("setting", sort=False).mean()
    means["runs"] = table.groupby("setting", sort=False).size()
    total = {kind: float(sum(entry[kind] for entry in once.values())) for kind in KINDS}
    every = {kind: float(table[kind].sum()) for kind in KINDS}
    saved = {kind: every[kind] - total[kind] for kind in KINDS}
    return Price(means, total, saved, len(once), sum(uses.values()) - len(once), len(runs) - len(known))


def _pairs(runs: pandas.DataFrame) -> Any:
    return zip(runs["price"], runs["stages"], strict=True)


def _row(setting: str, entries: list[dict[str, Any]], uses: Counter[str]) -> dict[str, Any]:
    sums = {kind: sum(entry[kind] for entry in entries) for kind in KINDS}
    shared = sum(entry["seconds"] for entry in entries if uses[entry["key"]] > 1)
    return {"setting": setting, "shared": shared / sums["seconds"] if sums["seconds"] else 0.0} | sums
