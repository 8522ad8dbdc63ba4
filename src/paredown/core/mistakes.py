"""What Hydra says against the words of a command, in one line that names valid choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from paredown.core.errors import UserError, nearest, reason
from paredown.core.places import CONF
from paredown.core.words import SEARCH_PATH, search_path
from paredown.core.yaml_files import ALONE

# raised by Hydra for wrong overrides, and for files that are no yaml
COMPOSING = (HydraException, OmegaConfBaseException, ValueError, OSError, YAMLError, RecursionError)


def explain(error: Exception, overrides: Sequence[str] = ()) -> UserError:
    """Turn Hydra's or OmegaConf's error over `overrides` into one line that names valid choices."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return UserError(f"no {group} {name!r}: {nearest(name, error.options or [])}")
    if isinstance(error, OverrideParseException):
        return UserError(f"cannot read override {error.override!r}: {_remedy(str(error.override))}")
    if isinstance(error, ConfigCompositionException) and (key := _unknown_key(error)):
        return _unknown(key, overrides)
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return UserError(f"{error.full_key} is not set: add {error.full_key}=...")
    return UserError(
        _of_a_file(error, overrides) or _several(error) or _no_name(error, overrides) or _first_line(error)
    )


def _of_a_file(error: Exception, overrides: Sequence[str]) -> str | None:
    """Return what is wrong with a yaml file of a folder that `overrides` add, if it is this that is the `error`."""
    if isinstance(error, RecursionError):
        return "yaml files of the configuration name each other in a circle: mend their `defaults`"
    if isinstance(error, YAMLError | UnicodeDecodeError):
        files = [path for folder in search_path(overrides) for path in sorted(folder.rglob("*.yaml"))]
        unread = [str(path) for path in files if not _is_utf8(path)]  # which a decoder's error does not name
        where = f" in {', '.join(unread)}" if unread else ""
        return f"a yaml file of the configuration cannot be read: {reason(error)}{where}"
    found = re.search(r"key '(\w+)\.([\w.]+)'", str(error)) if isinstance(error, InterpolationKeyError) else None
    if found is None:
        return None
    return f"{found[1]} has no {found[2]}, which others refer to: add it to the yaml file of {found[1]}="


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _no_name(error: Exception, overrides: Sequence[str]) -> str | None:
    """Return what is wrong with the first of `overrides` that chooses by a value that is no name, as debug=true, if it
    is this that is the `error`."""
    if "group override must be a string" not in str(error):
        return None
    for override in OverridesParser.create().parse_overrides([*overrides]):
        group, value = override.key_or_group, override.value()
        if not group:
            return f"cannot read {override.input_line!r}: write key=value"
        if (CONF / group).is_dir() and isinstance(value, bool | int | float):
            return f"no {group} {value}: {nearest(str(value), [path.stem for path in (CONF / group).glob('*.yaml')])}"
    return None


def _several(error: Exception) -> str | None:
    """Return how to run several values of a setting, if it is those that are the `error`."""
    if (found := re.match(r"Ambiguous value for argument '(.+)'", str(error))) is None:
        return None
    key, _, values = found[1].partition("=")
    in_a_sweep = f"seeds=[{values}]" if key == "seed" else f"grid: {{{key}: [{values}]}}"
    return (
        f"{found[1]} is several values, and a run has one: src/run.py --multirun runs them one after another, or a "
        f"sweep with {in_a_sweep} several at once (docs/sweeps.md); a decimal point is a point, and text with a comma "
        f"is quoted"
    )


def _remedy(override: str) -> str:
    """Return how to write `override` so that Hydra can read it."""
    key, equals, value = override.partition("=")
    if not equals or not value or value[0] in "[{'\"":
        return "write key=value, and close every bracket and quote"
    quoted = value.replace("'", "\\'")
    return f"write key=value; text with special characters is quoted, for the shell too: \"{key}='{quoted}'\""


def _unknown_key(error: Exception) -> str | None:
    found = re.match(r"Could not (?:override|append|delete).*?'([^']+)'", str(error))
    return found.group(1) if found else None


def _unknown(key: str, overrides: Sequence[str]) -> UserError:
    group, _, name = key.rpartition(".")
    others = [word for word in overrides if word.partition("=")[0].lstrip("+~") != key]
    choices = [word for word in others if "." not in word.partition("=")[0] or word.startswith(SEARCH_PATH)]
    with ALONE, initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            config = compose("config", choices)  # method.NAME is looked up in the method that was chosen
        except COMPOSING:  # one of them is wrong too
            config = compose("config")
    while group and not isinstance(OmegaConf.select(config, group), DictConfig):  # the first part that is wrong
        group, _, name = group.rpartition(".")
    if not group and (found := _deeper(config, name)):
        return UserError(f"unknown key {name!r}: did you mean {' or '.join(found)}?")
    below = OmegaConf.select(config, group) if group else config
    inside = f" in {group}" if group else ""
    return UserError(f"unknown key {name!r}{inside}: {nearest(name, map(str, below))}")


def _deeper(config: DictConfig, name: str) -> list[str]:
    """Return the settings of the groups of `config` whose name, or its initials as lr, is `name`."""
    values: Any = OmegaConf.to_container(config, resolve=False)
    groups = {group: value for group, value in values.items() if isinstance(value, dict)}
    keys = [(group, key) for group, value in groups.items() for key in value if group != "transfer"]
    return [f"{group}.{key}" for group, key in keys if name in (key, _initials(key))]


def _initials(key: str) -> str:
    """Return the first letters of the words of `key`, "" where it is one word."""
    return "".join(part[:1] for part in key.split("_")) if "_" in key else ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
