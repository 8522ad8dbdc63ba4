"""Training cost of the settings of a report; a stage shared by several runs is counted once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

UNITS = ("images", "other_images", "epochs", "seconds", "macs")


@dataclass(frozen=True)
class TrainingCost:
    """`settings`: per setting the mean of each of UNITS (`images`: training images seen, `other_images`: of searches,
    scoring and distillation; NaN where a run recorded none) for the whole plan of a run, `shared` (fraction of
    the seconds in stages that other runs use too) and `runs`. `total`: of all distinct stages; `saved`: by sharing;
    `stages`: their number; `reused`: how often one was used again; `unknown`: runs without a recorded cost."""

    settings: pandas.DataFrame
    total: dict[str, float]
    saved: dict[str, float]
    stages: int
    reused: int
    unknown: int


def training_cost(runs: pandas.DataFrame) -> TrainingCost:
    """Sum the training cost of `runs` (columns `setting`, `price`, `stages`). Stages are the same if their keys are."""
    import pandas

    known = runs[[isinstance(entries, list) and len(entries) == len(stages) for entries, stages in _pairs(runs)]]
    uses = Counter(entry["key"] for entries in known["price"] for entry in entries)
    distinct = {entry["key"]: entry for entries in known["price"] for entry in entries}
    rows = [_row(row["setting"], row["price"], uses) for _, row in known.iterrows()]
    table = pandas.DataFrame(rows, columns=["setting", *UNITS, "shared"])
    means = table.groupby("setting", sort=False).mean()
    means["runs"] = table.groupby("setting", sort=False).size()
    total = {unit: float(sum(entry.get(unit, nan) for entry in distinct.values())) for unit in UNITS}
    saved = {unit: float(table[unit].sum()) - total[unit] for unit in UNITS}
    reused = sum(uses.values()) - len(distinct)
    return TrainingCost(means, total, saved, len(distinct), reused, len(runs) - len(known))


def _pairs(runs: pandas.DataFrame) -> Any:
    return zip(runs["price"], runs["stages"], strict=True)


def _row(setting: str, entries: list[dict[str, Any]], uses: Counter[str]) -> dict[str, Any]:
    sums = {unit: sum(entry.get(unit, nan) for entry in entries) for unit in UNITS}
    shared = sum(entry["seconds"] for entry in entries if uses[entry["key"]] > 1)
    return {"setting": setting, "shared": shared / sums["seconds"] if sums["seconds"] else 0.0} | sums
