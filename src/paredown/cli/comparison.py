"""The comparison of methods: a table of what the cards say of themselves at their heads, and of what was published."""

from __future__ import annotations

from collections.abc import Iterator

from paredown.cli.choices import AT_A_GLANCE, head, metadata
from paredown.core.places import CONF

BEGIN, END = "<!-- from the cards: python scripts/methods.py -->", "<!-- end -->"
COLUMNS = {name: words for name, words in AT_A_GLANCE.items() if name != "family"}
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("family", "needs_data", "shapes_change", "time_falls", "ours"), str),
    **dict.fromkeys(("needs_trained", "macs_fall"), bool),
    "targets": list,
}
PUBLISHED_AS = {  # where the tables call it otherwise; their ip_... rows are those of interspace=true
    "jaderberg": ("jaderberg2014",),
    "l1_filters": ("l1_filter_pruning",),
    "lottery": ("lt_original_init", "lt_reset_epoch5"),
    "slimming": ("network_slimming",),
    "zhang": ("zhang2016",),
    **{name: (name, f"ip_{name}") for name in ("snip", "grasp", "synflow")},
}


def methods() -> list[str]:
    """Return the names of the project's own methods."""
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def missing() -> list[str]:
    """Return a line for each method whose card does not say at its head what the comparison needs."""
    return [line for name in methods() for line in _missing_of(name)]


def _missing_of(name: str) -> Iterator[str]:
    found = metadata(name)
    if not found:
        yield f"docs/methods/{name}.md: no metadata at its head: write {', '.join(KINDS)} as docs/methods/ssc.md does"
        return
    for key, kind in KINDS.items():
        if not isinstance(found.get(key), kind):
            wanted = {str: "text", bool: "true or false", list: "a list"}[kind]  # type: ignore[index]
            yield f"docs/methods/{name}.md: {key} is {found.get(key)!r}, not {wanted}"
    if unknown := sorted(found.keys() - KINDS.keys()):
        yield f"docs/methods/{name}.md: {unknown[0]} is not among {', '.join(KINDS)}"


def table() -> str:
    """Return the comparison as Markdown tables, one for each family."""
    by_family: dict[str, list[str]] = {}
    for name in methods():
        by_family.setdefault(metadata(name)["family"], []).append(name)
    return "\n\n".join(f"## {family.capitalize()}\n\n{_rows(names)}" for family, names in sorted(by_family.items()))


def _rows(names: list[str]) -> str:
    lines = [f"| method | what | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in names:
        found = metadata(name) | {"published": _published(name)}
        cells = [_cell(found[key]) for key in COLUMNS]
        lines.append(f"| [`{name}`]({name}.md) | {head(CONF / 'method' / f'{name}.yaml')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)


def _published(name: str) -> str:
    """Return how many rows of which papers' tables have the method."""
    from paredown.published.table import load

    rows = load()
    counted = rows[rows["method"].isin(PUBLISHED_AS.get(name, (name,)))].groupby("paper", sort=False).size()
    return ", ".join(f"{number} in {paper}" for paper, number in counted.items()) or "none"


def written_into(page: str) -> str:
    """Return `page`, docs/methods/README.md, with the tables of the cards as they are."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"
