"""Plugins: what other installed packages add, found by their entry points without importing them.

The value of an entry point of the group PLUGINS is a module, or module:Name: classes there may be named by `_target_`,
and the folders `conf/` and `sweeps/` beside that module, or above it in its package, are searched for configurations.
An entry point of the group LAYER_KINDS is called as the kind, NAME or NAME@VERSION; its value is the kind's module.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

PLUGINS, LAYER_KINDS = "paredown.plugins", "paredown.kinds"
log = logging.getLogger("paredown")


@cache
def plugins() -> frozenset[str]:
    """Return the dotted names that installed packages declare as entry points of the group PLUGINS."""
    return frozenset(dotted(point) for point in entry_points(group=PLUGINS))


def dotted(point: EntryPoint) -> str:
    """Return the dotted name that the value of `point` stands for."""
    return point.value.partition("[")[0].strip().replace(":", ".")


@cache
def layer_kinds() -> dict[str, tuple[str, int]]:
    """Return the module and the version of each layer kind of a plugin, by name."""
    found = {}
    for point in entry_points(group=LAYER_KINDS):
        name, _, version = point.name.partition("@")
        found[name] = (dotted(point), int(version) if version.isdecimal() else 1)
    return found


@cache
def plugin_folders(name: str) -> tuple[Path, ...]:
    """Return the folders called `name` (conf or sweeps) of every plugin. Warn of one whose package is not there."""
    found: dict[Path, None] = {}
    for point in sorted(entry_points(group=PLUGINS), key=lambda point: point.name):
        top, *rest = dotted(point).split(".")
        spec = find_spec(top)  # of a top-level module: it is found, not imported
        if spec is None:
            said = "the plugin %s (entry point %s of the group %s) is not installed: there is no module %s"
            log.warning(said, point.name, point.value, PLUGINS, top)
            continue
        for root in map(Path, spec.submodule_search_locations or ()):
            inside = [root.joinpath(*rest[:end]) / name for end in range(len(rest) + 1)]
            found |= dict.fromkeys(folder for folder in inside if folder.is_dir())
    return tuple(found)
