"""Folders that come with the package: at the root of a clone, else inside the installed package (see setup.py)."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CLONE = PACKAGE.parents[1]


def _folder(name: str, in_clone: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else CLONE / in_clone


CONF = _folder("conf", "conf")
SWEEPS = _folder("sweeps", "sweeps")
CARDS = _folder("cards", "docs/methods")
INSTALLED = CONF.parent == PACKAGE  # not a clone
