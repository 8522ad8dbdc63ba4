"""Errors of the user: one line that says what is wrong, where, and which values are valid."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 300  # characters of another library's message that are repeated
MOST, MOST_OF_NAME = 2000, 100  # characters of a line, and of a name that is compared


class UserError(Exception):
    """A mistake in what the user asked for. The command line prints the message alone and exits with code 2.

    It is one printable line of bounded length, whatever the names and values in it are: they may come from a damaged or
    hostile file.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        half = MOST // 2  # the remedy, and what a worker process raised, are at the end
        super().__init__(printable(text if len(text) <= MOST else f"{text[:half]} ... {text[-half:]}"))


class Refusal(UserError):
    """What is not done although the file that asks for it is whole: the message names its remedy."""


def printable(text: str) -> str:
    """Return `text` with control characters, line ends among them, as escapes: what a server or a file says must not
    move a terminal's cursor, change its title or forge a line."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def nearest(name: str, options: Iterable[str]) -> str:
    """Format `options`, those that resemble `name` first: 'did you mean a or b? known: a, b, c'."""
    every = sorted(map(str, options))
    folded = {one.casefold(): one for one in every}
    asked = str(name)[:MOST_OF_NAME].casefold()
    close = [folded[one] for one in get_close_matches(asked, folded, cutoff=0.5)]
    known = f"known: {', '.join(every)}" if every else "none is known"
    return f"did you mean {' or '.join(close)}? {known}" if close else known


def reason(error: BaseException) -> str:
    """Return what `error` says, or its first line where that is long, or the name of its class where it is nothing."""
    words = " ".join(str(error).split())
    said = printable(words if len(words) <= LONGEST else str(error).strip().splitlines()[0][:LONGEST])[:LONGEST]
    if not said:
        return type(error).__name__
    return f"{type(error).__name__}: {said}" if isinstance(error, KeyError) else said


def named_reason(error: BaseException) -> str:
    """Return the class of `error` and its `reason`."""
    kind, said = type(error).__name__, reason(error)
    return said if said.startswith(kind) else f"{kind}: {said}"
