"""Composition of overrides into a configuration by Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, reduce
from operator import getitem
from typing import Any, Literal, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from paredown.core.errors import UserError
from paredown.core.mistakes import COMPOSING, explain
from paredown.core.places import CONF
from paredown.core.words import HYDRA, SEARCH_PATH, TRUST, as_typed, refuse_hydra, root, with_search_path
from paredown.core.yaml_files import ALONE, calls_resolver, no_environment

NAMED = ("method", "model", "dataset", "recipe", "debug")
# parts of Hydra's own configuration that differ between two commands, and call nothing
HYDRA_FACTS = ("overrides", "runtime", "searchpath", "mode")
JOB_FACTS = ("name", "override_dirname", "id", "num", "config_name")
# settings that mean something else where they are typed: what pretrained weights decide otherwise, and those of one
# training of a method, which has to take place then
TOLD_APART = re.compile(r"\+{0,2}(?:(?:transfer\.)?dataset\.(?:mean|std)|method\.\w+\.\w+|method\.\w+(?==\{))=")
TYPED = "typed"  # where a composed configuration lists these; it is no setting, and is not recorded
SOURCE = "model.source"
SIMPLE = re.compile(r"\$\{(\w[\w.]*)\}")  # an interpolation of one key
ControlKind = Literal["random", "uniform", "dense"]  # see paredown.experiment.controls


def compose(overrides: list[str]) -> dict[str, Any]:
    """Compose `overrides` (Hydra's language) on top of `conf/config.yaml` into plain data; `names` holds the chosen
    method, model, dataset and recipe. Whoever types `model.source` trusts it: `overrides` are typed, and come from no
    file. Raise UserError for whatever is wrong with them."""
    return _with_consent(_compose(overrides), overrides)


def compose_all(lists: Iterable[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Compose many lists of overrides, a thousand times as fast for those that differ in plain values alone."""
    several = _Several()
    for typed in lists:
        overrides = with_search_path(map(as_typed, typed))
        try:
            values = several.compose(overrides)
        except COMPOSING:  # `_compose` explains the error
            values = _compose(overrides)
        yield values


class _Several:
    """What lists of overrides share: the configuration of those that choose files or that others depend on, resolved.
    A plain value that no interpolation refers to is set in a copy of it."""

    def __init__(self) -> None:
        self.composed = lru_cache(maxsize=64)(_composed)
        self.updated = lru_cache(maxsize=64)(self._updated)

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Compose one list. Raise one of COMPOSING where it is wrong."""
        plain = [word for word in overrides if _is_plain(word)]
        chosen = tuple(word for word in overrides if word not in plain)
        free = self._free(chosen, plain)
        bound = tuple(word for word in plain if word not in free)
        values, names, _ = self.updated(chosen, bound)
        values = _copied(values)
        for key, value in free.values():
            *path, last = key.split(".")
            reduce(getitem, path, values)[last] = value
        return _consented(values, names, overrides)

    def _free(self, chosen: tuple[str, ...], plain: Sequence[str]) -> dict[str, tuple[str, Any]]:
        """Return those of the `plain` words that set an existing single value on which no other depends."""
        single = {word: found for word in plain if (found := _single(word))}
        keys = [word.partition("=")[0] for word in plain]
        single = {word: found for word, found in single.items() if sum(_related(found[0], key) for key in keys) == 1}
        try:
            values, _, referred = self.updated(chosen, tuple(word for word in plain if word not in single))
        except MissingMandatoryValue:  # one of them sets it
            return {}
        if referred is None:
            return {}
        return {
            word: (key, value)
            for word, (key, value) in single.items()
            if _holds_single(values, key) and not any(_related(key, other) for other in referred)
        }

    def _updated(
        self, chosen: tuple[str, ...], plain: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[str, Any], frozenset[str] | None]:
        """Return the resolved configuration of `chosen` and `plain` words, the names of its choices, and the keys that
        its interpolations refer to, None where one calls a resolver or is relative."""
        config, names = self.composed(chosen)
        config = deepcopy(config)
        for item in OverridesParser.create().parse_overrides(list(plain)):
            OmegaConf.update(config, item.key_or_group, item.value(), merge=True)
        return _contained(config), names, _referred(config)


def _copied(value: Any) -> Any:
    """Copy plain data: thirty times as fast as `deepcopy`."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def _single(word: str) -> tuple[str, Any] | None:
    """Return the key and value of a word that sets a number, a text, true, false or null as it stands; else None."""
    if "${" in word or "???" in word:
        return None
    (setting,) = OverridesParser.create().parse_overrides([word])
    value: Any = setting.value()
    plain = value is None or type(value) in (bool, int, float, str)
    return (setting.key_or_group, value) if plain else None


def _holds_single(values: Mapping[str, Any], key: str) -> bool:
    """Tell whether `values` have something at `key` that is neither a mapping nor a list."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return not isinstance(found, dict | list)


def _related(one: str, other: str) -> bool:
    """Tell whether two keys are equal or one is a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _referred(config: DictConfig) -> frozenset[str] | None:
    """Return the keys that the interpolations of `config` refer to, None where one is not of the form `${a.b}`."""
    found: set[str] = set()
    for text in _texts(OmegaConf.to_container(config, resolve=False)):
        simple = SIMPLE.findall(text)
        if len(simple) != text.count("${"):
            return None
        found |= {*simple}
    return frozenset(found)


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return _resolved(*_composed(tuple(with_search_path(map(as_typed, overrides)))), overrides)
    except COMPOSING as error:
        raise explain(error, overrides) from error


def _with_consent(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with the model's source trusted where a word of `overrides` names it."""
    if not any(word.lstrip("+").startswith(f"{SOURCE}=") for word in overrides):
        return values
    place, _, name = str(values["model"].get("source")).rpartition(":")
    if not (place and name.isidentifier()):
        return values  # no source: refused by its own name where the network is built
    named = place if place.endswith(".py") else f"{place}:{name}"
    return values | {TRUST: [*(values.get(TRUST) or []), named]}


def _refuse_changed(found: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UserError where a yaml file of the search path changed what Hydra does: it calls what it is given."""
    if not any(root(word) == HYDRA and word.startswith(SEARCH_PATH) for word in overrides):
        return
    typed = [word for word in overrides if root(word) == HYDRA and not word.startswith(SEARCH_PATH)]
    plain = hydra_compose("config", typed, return_hydra_config=True).hydra
    ours, theirs = (_deciding(one) for one in (plain, found))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UserError(f"a yaml file sets hydra.{name}: files cannot change what Hydra does, remove it there")


def _deciding(hydra: DictConfig) -> dict[str, Any]:
    """Return the parts of Hydra's own configuration that decide what it does."""
    whole: Any = OmegaConf.to_container(hydra, resolve=False)
    job = {f"job.{name}": value for name, value in whole.pop("job").items() if name not in JOB_FACTS}
    return {name: value for name, value in (whole | job).items() if name not in HYDRA_FACTS}


def _is_plain(word: str) -> bool:
    key = word.partition("=")[0]
    return bool(re.fullmatch(r"[a-z_0-9.]+", key)) and not (CONF / key).is_dir() and root(word) != HYDRA


def _composed(overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
    refuse_hydra(overrides)
    with ALONE, initialize_config_dir(version_base="1.3", config_dir=str(CONF)), no_environment():
        config = hydra_compose("config", list(overrides), return_hydra_config=True)
        _refuse_changed(config.hydra, overrides)
    names = {group: config.hydra.runtime.choices[group] for group in NAMED}
    with open_dict(config):
        del config["hydra"]
    _refuse_resolvers(config, overrides)
    return config, names


def _refuse_resolvers(config: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UserError where a yaml file of the search path calls a resolver, as `${oc.env:NAME}`: an environment
    variable would be recorded with the run; whoever types that word may."""
    if not any(word.startswith(SEARCH_PATH) for word in overrides):
        return
    for text in _texts(OmegaConf.to_container(config, resolve=False)):
        if calls_resolver(text) and not any(text in word.partition("=")[2] for word in overrides):
            raise UserError(f"a yaml file reads the environment, or calls another resolver ({text}): type that word")


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a container, names too."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _resolved(config: DictConfig, names: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `config` as plain data. Raise UserError where a yaml file sets `trust`, no word of `overrides`."""
    return _consented(_contained(config), names, overrides)


def _contained(config: DictConfig) -> dict[str, Any]:
    with ALONE:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return cast(dict[str, Any], values)


def _consented(values: dict[str, Any], names: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `values` with what else is known of them. Raise UserError where a yaml file sets `trust`, no word of
    `overrides`."""
    if values.get(TRUST) and not any(root(word) == TRUST for word in overrides):
        raise UserError(f"trust={values[TRUST]} comes from a yaml file, which cannot say what is trusted: type it")
    typed = [name for word in overrides if TOLD_APART.match(word) for name in _named(word)]
    return values | {"names": dict(names)} | ({TYPED: typed} if typed else {})


def _named(word: str) -> list[str]:
    """List the settings that `word` sets: those of a dictionary one by one."""
    name, _, text = word.lstrip("+").partition("=")
    if not text.startswith("{"):
        return [name]
    (setting,) = OverridesParser.create().parse_overrides([word])
    value: Any = setting.value()
    return [f"{name}.{key}" for key in value]
