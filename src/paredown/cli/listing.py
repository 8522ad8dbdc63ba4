"""The command `paredown list`: methods, models, data sets, sweeps and published tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from paredown.core.errors import UserError, nearest
from paredown.core.requests import run_command

HELP = Path(__file__).parent / "help" / "list.txt"
GROUPS = {name + "s": name for name in ("method", "model", "dataset", "recipe", "experiment")}
DESCRIPTION = re.compile(r"^description: *(?P<quote>[\"']?)(?P<text>.*?)(?P=quote) *$", re.MULTILINE)  # of a sweep file
WHAT = (*GROUPS, "sweeps", "published")


def main() -> None:
    """Print the names that the words of the command line ask for, a line each."""
    run_command(_list, HELP)


def _list(words: list[str]) -> None:
    from paredown.core.words import with_config_dirs

    words = with_config_dirs(words)
    asked = [word for word in words if "=" not in word]
    if not asked:
        raise UserError(f"list what? {', '.join(WHAT)}")
    for what in asked:
        if what not in WHAT:
            raise UserError(f"cannot list {what!r}: {nearest(what, WHAT)}")
    for what in asked:
        rows = names(what, words)
        width = max((len(name) for name in rows), default=0)
        if len(asked) > 1:
            print(f"{what}:" if what == asked[0] else f"\n{what}:")
        print("\n".join(f"{name:{width}}  {text}".rstrip() for name, text in rows.items()))


def names(what: str, words: Sequence[str] = ()) -> dict[str, str]:
    """Return the names of all that is called `what`, one of WHAT, with a line about each."""
    if what == "published":
        return _published()
    if what == "sweeps":
        return _sweeps(words)
    from paredown.cli.choices import every, file_of, head

    group = GROUPS[what]
    return {name: head(file_of(group, name, words)) for name in every(words).get(group, [])}


def _sweeps(words: Sequence[str]) -> dict[str, str]:
    from paredown.core.words import sweep_files

    found = {}
    for name, path in sorted(sweep_files(words).items()):
        said = DESCRIPTION.search(path.read_text(encoding="utf-8"))  # parsing thirty files would take seconds
        found[name] = said["text"] if said else ""
    return found


def _published() -> dict[str, str]:
    from paredown.published.table import load

    table = load()
    counted = table.groupby(["paper", "table"], sort=False).size()
    return {f"{paper}/table{name}": f"{number} rows" for (paper, name), number in counted.items()}
