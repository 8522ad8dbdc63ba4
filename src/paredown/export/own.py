"""The programs that this user exported on this machine, by SHA-256, in a folder that nobody else writes to.

A certificate beside a program vouches for nothing: whoever made one made the other.
"""

from __future__ import annotations

import logging
from pathlib import Path

from paredown.core.errors import UserError
from paredown.core.private import NotPrivate, check_private, private_folder
from paredown.core.trust import trusted

LOADER = "torch.export.load"  # what is trusted where a program is
log = logging.getLogger("paredown")


def remember(sha256: str) -> None:
    """Note that this user exported the program of that digest. Without a private folder, say that verifying it needs
    `trust`."""
    try:
        place = _place(sha256)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.touch(mode=0o600)
    except (NotPrivate, OSError) as error:
        log.warning("%s: to verify model.pt2 later, add trust=%s", error, LOADER)


def require_own(path: Path, sha256: str) -> None:
    """Raise UserError for the program `path` unless this user exported it here, or trusts what loads it."""
    if trusted(LOADER):
        return
    try:
        place = _place(sha256)
        check_private(place.parent)
        check_private(place)
    except (NotPrivate, OSError) as error:
        raise UserError(
            f"{path} was not exported here by you: {LOADER} would evaluate what is in it. Add trust={LOADER} if you "
            f"trust who made it"
        ) from error


def _place(sha256: str) -> Path:
    if not (len(sha256) == 64 and sha256.isalnum() and sha256.isascii()):
        raise NotPrivate("no digest")
    return private_folder() / "exported" / sha256
