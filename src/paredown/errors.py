"""What a person can get wrong: one line that says what, where, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user asked for. The command line prints the message alone and exits with code 2."""


def nearest(name: str, options: Iterable[str], most: int = 3) -> str:
    """`options` as a phrase, the ones that resemble `name` first: 'did you mean a, b? (all: a, b, c)'."""
    every = sorted(map(str, options))
    close = get_close_matches(str(name), every, n=most, cutoff=0.5)
    known = f"known: {', '.join(every)}" if every else "none is known"
    return f"did you mean {' or '.join(close)}? {known}" if close else known
