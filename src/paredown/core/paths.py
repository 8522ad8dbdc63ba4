"""Paths below a folder, named by others: whether they stay in it."""

from __future__ import annotations

from pathlib import Path


def is_plain(name: str) -> bool:
    """Tell whether `name` is a relative path below a folder: printable, without empty, `.` or `..` parts."""
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def linked(folder: Path, name: str) -> bool:
    """Tell whether a part of the path `name` below `folder` is a link, which may lead out of it."""
    parts = name.split("/")
    return any(folder.joinpath(*parts[: end + 1]).is_symlink() for end in range(len(parts)))
