"""Commands that run recorded experiments again, written from their recorded parameters."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache

from paredown.core.config import NAMED, compose
from paredown.core.errors import UserError
from paredown.core.legacy import current_target
from paredown.core.places import CONF
from paredown.tracking.tracker import flatten

# parameters that say where something was kept or what it was, and are no words of a command
UNTYPED = (
    *("names.", "output", "store", "tracking.", "trust", "dataset.cache", "reproduce", "seeds", "typed"),
    *("trainer.threads", "trainer.progress", "model.digest", "model.weights_digest"),
)
# what a person has to consent to, or to choose, by typing it
CONSENTED = ("model.source", "trust")
TRANSFER = "transfer.dataset"


def command(params: Mapping[str, str]) -> str:
    """Return the command that runs the experiment of the recorded `params` again: its choices, and each parameter that
    is not their default. Return "" where none does: it ran code or configurations from elsewhere, made its plan on
    another data set, or an older version recorded parameters that are gone."""
    names = {group: params.get(f"names.{group}", "null") for group in NAMED}
    choices = tuple(f"{group}={name}" for group, name in names.items() if (group, name) != ("debug", "null"))
    base = _defaults(choices) if all(_is_ours(*choice.split("=", 1)) for choice in choices) else None
    differing = {name: value for name, value in params.items() if base is not None and base.get(name, "null") != value}
    if base is None or any(differing.get(name, "null") not in ("null", "[]") for name in CONSENTED):
        return ""
    words = [_word(name, value, base) for name, value in differing.items() if not name.startswith(UNTYPED)]
    seed = [] if "seed" in differing else [f"seed={params.get('seed', 0)}"]
    if "" in words:
        return ""
    return shlex.join(["python", "src/run.py", *choices, *seed, *(word for word in words if word is not None)])


def _is_ours(group: str, name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*", name)) and (CONF / group / f"{name}.yaml").is_file()


@lru_cache(maxsize=256)
def _defaults(choices: tuple[str, ...]) -> Mapping[str, str] | None:
    """Return the parameters that a run of `choices` alone records, None where they do not compose."""
    try:
        return dict(flatten(compose(list(choices))))
    except UserError:
        return None


def _word(name: str, value: str, base: Mapping[str, str]) -> str | None:
    """Return the word that gives the parameter `name` its recorded `value`: None where it needs none, "" where no word
    does."""
    if name.endswith("_target_"):
        return None if current_target(value) == base.get(name) else ""
    if name not in base or name.startswith(TRANSFER) or "${" in value:
        return ""
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return next((f"{name}={text}" for text in (value, quoted) if _read(f"{name}={text}") == value), "")


@lru_cache(maxsize=8192)
def _read(word: str) -> str | None:
    """Return the value that Hydra reads in `word` as a run records it, None where it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(word).value()
        return value if isinstance(value, str) else json.dumps(value)
    except (HydraException, TypeError):
        return None
