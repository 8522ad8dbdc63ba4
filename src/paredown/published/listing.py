"""The list of every published row in docs/reproduction.md: runs as printed, differs, or cannot be run, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from paredown.core.errors import UserError
from paredown.published.differences import differences
from paredown.published.settings import SETTINGS, overrides
from paredown.published.table import PublishedRow, load

AS_PRINTED, DIFFERS, CANNOT = "as printed", "differs", "cannot be run"
HEAD = "| table | rows | method | networks | answer |\n|---|---|---|---|---|"
BEGIN, END = "<!-- rows: python scripts/reproduction.py -->", "<!-- end of rows -->"


def answer(row: PublishedRow) -> str:
    """Return whether `row` runs as printed, what differs, or why it cannot be run."""
    try:
        overrides(row)
    except UserError as error:
        missing = bool(row["method"]) and row["method"] not in SETTINGS  # its name has a column of its own
        why = "no such method here yet" if missing else str(error).partition(f" {CANNOT}: ")[2]
        return f"{CANNOT}: {why}"
    found = differences(row)
    return f"{DIFFERS}: {'; '.join(found)}" if found else AS_PRINTED


def listing() -> str:
    """Return every row in one table of Markdown, with a line for the rows of a table that have the same answer."""
    every = [dict(row) for _, row in load().iterrows()]
    lines = [
        line
        for table, rows in groupby(every, key=lambda row: row["id"].rpartition("/")[0])
        for line in _lines(table, list(rows))
    ]
    return "\n".join([_totals(every), "", HEAD, *lines, ""])


def written_into(page: str) -> str:
    """Return `page` with the listing between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{listing()}{END}{rest.partition(END)[2]}"


def _totals(rows: Sequence[PublishedRow]) -> str:
    kinds = [answer(row).partition(":")[0] for row in rows]
    runs = f"{kinds.count(AS_PRINTED)} run as printed, {kinds.count(DIFFERS)} run and differ"
    return f"Of the {len(rows)} rows {runs}, {kinds.count(CANNOT)} cannot be run."


def _lines(table: str, rows: Sequence[PublishedRow]) -> list[str]:
    groups: dict[str, list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault(answer(row), []).append(row)
    return [
        f"| `{table}` | {_ranges([row['row'] for row in found])} | {_names(found, 'method') or 'none'} "
        f"| {_names(found, 'model')} | {text} |"
        for text, found in groups.items()
    ]


def _names(rows: Iterable[PublishedRow], column: str) -> str:
    return ", ".join(dict.fromkeys(row[column] for row in rows))


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising `numbers` as ranges: 1 to 3, 7."""
    runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in ends)
