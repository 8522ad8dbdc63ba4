"""The folder of the user's cache that nobody else writes to: for what is loaded as code, or vouches for code."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from paredown.core.files import user_cache

OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(Exception):
    """The reason why somebody else may have written a file, or may replace it."""


def private_folder() -> Path:
    """Return `paredown` in $XDG_CACHE_HOME or ~/.cache, made if missing. Raise NotPrivate if others can write there."""
    try:
        given = user_cache()
        root = Path(os.path.realpath(given.parent))  # whoever names it decides where it leads
        folder = root / given.name
        for missing in (*reversed(root.parents), root, folder):
            missing.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise NotPrivate(f"there is no cache folder: {error}") from error
    check_private(root)
    check_private(folder)
    return folder


def check_private(path: Path) -> None:
    """Raise NotPrivate unless `path` is a file or folder of this user's that nobody else can write to, and no link."""
    found = path.lstat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise NotPrivate(f"{path} is neither a file nor a folder")
    if found.st_uid != os.geteuid():
        raise NotPrivate(f"{path} belongs to another user")
    if found.st_mode & OTHERS:
        raise NotPrivate(f"others can write to {path} (chmod go-w)")
