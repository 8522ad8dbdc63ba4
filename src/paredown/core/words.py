"""The words of a command as Hydra takes them: their roots, texts as they are typed, and the folders that add files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from paredown.core.errors import UserError
from paredown.core.places import CONF, SWEEPS
from paredown.core.plugins import plugin_folders

TRUST, HYDRA = "trust", "hydra"  # roots of words that a person types and no file holds
SEARCH_PATH = "hydra.searchpath"  # folders whose yaml files are found like those of conf/
# Hydra's other settings call what they name (callbacks, logging, launcher, sweeper)
HYDRA_SETTINGS = (
    *("hydra.verbose", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name"),
    SEARCH_PATH,
)
CONFIG_DIR = ("--config-dir", "-cd")
# settings that are text whatever it looks like: a folder may be called 2024_01, a=b or été
TEXTS = re.compile(
    r"(\+{0,2}(?:output|store|tracking\.(?:uri|experiment)|model\.(?:weights|source|digest|weights_digest)|(?:transfer\.)?dataset\.(?:root|cache)))"
    r"=(.+)",
    re.DOTALL,
)
ARGUMENT = re.compile(r"model\.arguments\.\w+=")  # of a network whose arguments paredown does not know
QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)


def refuse_hydra(words: Iterable[str]) -> None:
    """Raise UserError for a setting of Hydra itself that may read other files or call what it names."""
    for word in words:
        if root(word) == HYDRA and word.lstrip("+~-").partition("=")[0] not in HYDRA_SETTINGS:
            raise UserError(f"{word}: no setting of an experiment; of Hydra's, {', '.join(HYDRA_SETTINGS)} can be set")


def search_path(overrides: Iterable[str]) -> list[Path]:
    """Return the folders that `overrides` add to conf/, each an absolute path, then those of installed plugins. Raise
    UserError for what is no folder: Hydra would pass over it, or import a package."""
    found: dict[Path, None] = {}
    for word in overrides:
        if word.lstrip("+").partition("=")[0] == SEARCH_PATH:
            try:
                (setting,) = OverridesParser.create().parse_overrides([word])
            except HydraException as error:
                raise UserError(f"cannot read {word}: write {SEARCH_PATH}=[FOLDER,FOLDER]") from error
            value: Any = setting.value()
            for item in value if isinstance(value, list) else [value]:
                text = str(item).removeprefix("file://")
                folder = Path(text).absolute()
                if not text or not folder.is_dir():
                    raise UserError(f"{SEARCH_PATH}: there is no folder {text!r} to find configurations in")
                found[folder] = None
    return [*found, *(folder for folder in plugin_folders("conf") if folder not in found)]


def sweep_files(words: Sequence[str]) -> dict[str, Path]:
    """Return the sweep files by name: those of plugins, the project's, and those in `sweeps/` (or `sweep/`) of folders
    that `words` add to the search path; of equal names the last of these."""
    plugins = plugin_folders("conf")
    typed = [folder for folder in search_path(words) if folder not in plugins]
    own, others = ([f / name for f in folders for name in ("sweeps", "sweep")] for folders in (typed, plugins))
    folders = [*plugin_folders("sweeps"), *others, SWEEPS, *own]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def with_search_path(overrides: Iterable[str]) -> list[str]:
    """Return `overrides` with one word for all folders of `search_path`, none where there is none."""
    overrides = list(overrides)
    folders = search_path(overrides)
    others = [word for word in overrides if word.lstrip("+").partition("=")[0] != SEARCH_PATH]
    return [*others, *([_search_word(folders)] if folders else [])]


def with_config_dirs(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with each `--config-dir FOLDER` as the setting that it stands for, which
    reaches other processes too. Raise UserError where the folder is missing."""
    left, folders = list(words), list[str]()
    for place in reversed(range(len(left))):
        option, equals, value = left[place].partition("=")
        if option in CONFIG_DIR:
            if not (given := [value] if equals else left[place + 1 : place + 2]):
                raise UserError(f"{option} of which folder? write {option} FOLDER")
            folders[:0] = given
            del left[place : place + (1 if equals else 2)]
    others = [word for word in left if word.lstrip("+").partition("=")[0] != SEARCH_PATH]
    if folders and len(others) < len(left):
        raise UserError(f"give {CONFIG_DIR[0]} or {SEARCH_PATH}, not both")
    return [*left, *([_search_word(folders)] if folders else [])]


def as_typed(override: str) -> str:
    """Quote the value of a setting in TEXTS for Hydra, so that it is taken as it is typed; null, what is quoted or
    escaped, and ${...} stay as they are. Raise UserError for letters that this process cannot read."""
    if re.search("[\ud800-\udfff]", override):  # bytes that the locale's encoding does not have
        raise UserError(f"cannot read {override!r} in this locale's character set: set LANG=C.UTF-8 or PYTHONUTF8=1")
    if ARGUMENT.match(override):
        return f"++{override}"
    found = TEXTS.fullmatch(override)
    if found is None or found[2] == "null" or QUOTED.fullmatch(found[2]) or "${" in found[2] or "\\" in found[2]:
        return override
    value = found[2].replace("'", "\\'")
    return f"{found[1]}='{value}'"


def for_shell(override: str) -> str:
    """Return `override` as one types it: what `as_typed` quotes for Hydra without those quotes."""
    found = TEXTS.fullmatch(override)
    if found is None or not (quoted := QUOTED.fullmatch(found[2])):
        return override
    text = found[2][1:-1].replace("\\" + quoted[1], quoted[1])
    return f"{found[1]}={text}"


def root(override: str) -> str:
    """Return the first part of `override`: the key or group, one of `roots`."""
    return re.split("[=.@/]", override.lstrip("+~-"))[0]


def roots() -> list[str]:
    """List the first parts of valid overrides: the groups of `conf/` and the keys of `conf/config.yaml`."""
    own = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(own, dict)
    return [
        *(str(key) for key in own if key not in ("defaults", "hydra")),
        *(path.name for path in CONF.iterdir() if path.is_dir()),
    ]


def _search_word(folders: Iterable[str | Path]) -> str:
    """Return the setting that adds `folders`, by their absolute paths: other processes have other working folders."""
    paths = (str(Path(folder).absolute()).replace("'", "\\'") for folder in folders)
    return "{}=[{}]".format(SEARCH_PATH, ",".join(f"'file://{path}'" for path in paths))
