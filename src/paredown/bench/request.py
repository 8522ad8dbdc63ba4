"""The request of a bench, as typed after src/bench.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from paredown.core import requests
from paredown.core.constraints import Before, Checked, Count, NonNegative, Threads
from paredown.core.errors import UserError
from paredown.core.progress import Mode, mode_of
from paredown.core.requests import Folder, Listed
from paredown.core.trust import Name


@dataclass(frozen=True)
class Request(Checked):
    """A finished `run` (an id or a folder), or a network as src/run.py's `overrides` would make it, untrained.

    Times each number of images in `batch`, in `rounds` of `seconds` each, with `threads` (None: as many as torch uses)
    on `device`; `deploy`: 'auto' times which form of each layer is fastest, for `tune` seconds a network, 'plain' takes
    the plain layers. `trust`: what a `_target_` may name besides the project's own, see `core.trust`.
    `progress`: what is shown of the work.
    """

    run: str | None = None
    overrides: tuple[str, ...] = ()
    deploy: Literal["auto", "plain"] = "auto"
    batch: Annotated[tuple[Count, ...], Listed] = (1, 32, 128)
    threads: Threads | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seconds: NonNegative = 4.0
    rounds: Count = 3
    tune: NonNegative = 10.0
    output: Folder = Path("outputs")
    folder: Folder | None = None
    uri: str | None = field(default=None, metadata={"key": "tracking.uri"})
    trust: Annotated[tuple[Name, ...], Listed] = ()
    progress: Annotated[Mode, Before(mode_of)] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch:
            raise UserError("batch=[] times nothing: give numbers of images, as batch=1,32")
        if (self.run is not None) == any(word.startswith("model=") for word in self.overrides):
            raise UserError(
                "bench what? give run=ID (or a folder), or model=NAME with method=, sparsity= ... as src/run.py"
            )


KEYS = requests.keys(Request).keys() - {"overrides"}


def parse(words: Sequence[str]) -> Request:
    """Return the request of `words`. Raise UserError for whatever is wrong with them; Hydra checks the overrides."""
    from paredown.core.words import with_config_dirs  # Hydra: not for --help

    words = with_config_dirs(words)
    own = [word for word in words if word.removeprefix("--").partition("=")[0] in KEYS]
    overrides = tuple(word for word in words if word not in own)
    _check_keys(overrides, alone=not any(word.removeprefix("--").startswith("run=") for word in own))
    return requests.parse(Request, own, overrides=overrides)


def _check_keys(overrides: Sequence[str], alone: bool) -> None:
    """Raise UserError where an override begins with what neither a bench nor, `alone`, an experiment has."""
    from paredown.core.words import HYDRA, root, roots  # Hydra: not for --help

    known = {*KEYS, *([*roots(), HYDRA] if alone else ())}
    if meant := requests.as_setting(overrides, known):
        raise UserError(meant)
    for word in overrides:
        if root(word) not in known:
            requests.settings([word], known)
