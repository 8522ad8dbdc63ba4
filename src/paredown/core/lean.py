"""Imports of a command's process without what it never uses."""

from __future__ import annotations

from functools import cache
from typing import Any

# torchmetrics, which Lightning imports whole, takes them for metrics of images and sound; torchvision brings torch's
# compiler, and took longer than torch and Lightning together
UNUSED = ("torchvision", "scipy", "matplotlib")


@cache
def import_leanly() -> None:
    """Let Lightning and torchmetrics believe that UNUSED packages are not installed, for the life of this process; who
    imports them gets them. For processes of our commands alone, never in a user's."""
    from lightning_utilities.core.imports import RequirementCache

    check: Any = RequirementCache._check_requirement

    def checked(cache: RequirementCache) -> None:
        if cache.requirement in UNUSED:
            cache.available, cache.message = False, f"{cache.requirement} is left out by paredown"
        else:
            check(cache)

    RequirementCache._check_requirement = checked  # type: ignore[method-assign,assignment]
