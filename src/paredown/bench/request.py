"""What is asked of a bench, as typed after src/bench.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.command import number, settings, several
from paredown.errors import UserError, nearest

DEPLOYS, DEVICES = ("auto", "plain"), ("auto", "cpu", "cuda")
KNOWN = ("run", "deploy", "batch", "threads", "device", "seconds", "rounds", "tune", "output", "folder", "tracking.uri")


@dataclass(frozen=True)
class Request:
    """A finished `run` (an id or a folder), or a network as src/run.py's `overrides` would make it, untrained.

    Times `batches` images at once, in `rounds` of `seconds` each, with `threads` (None: torch's own) on `device`;
    `deploy`: 'auto' times which form of each layer is fastest, for `tune` seconds a network, 'plain' takes the plain
    layers.
    """

    run: str | None = None
    overrides: tuple[str, ...] = ()
    deploy: str = "auto"
    batches: tuple[int, ...] = (1, 32, 128)
    threads: int | None = None
    device: str = "auto"
    seconds: float = 4.0
    rounds: int = 3
    tune: float = 10.0
    output: Path = Path("outputs")
    folder: Path | None = None
    uri: str | None = None


def parse(words: Sequence[str]) -> Request:
    """The request of `words`. UserError for whatever is wrong with them; what `overrides` mean is for Hydra to say."""
    own = [word for word in words if word.removeprefix("--").partition("=")[0] in KNOWN]
    overrides = tuple(word for word in words if word not in own)
    given = settings(own, KNOWN)
    chosen = any(word.startswith("model=") for word in overrides)
    if "run" in given:
        settings(list(overrides), KNOWN)  # a run is what it is: any other word is a mistake
    _check_keys(overrides)
    if ("run" in given) == chosen:
        raise UserError(
            "bench what? give run=ID (or a folder), or model=NAME with method=, sparsity= ... as src/run.py"
        )
    values: dict[str, Any] = {"overrides": overrides} | {name: given[name] for name in ("run",) if name in given}
    for name, allowed in (("deploy", DEPLOYS), ("device", DEVICES)):
        if given.get(name, allowed[0]) not in allowed:
            raise UserError(f"unknown {name} {given[name]!r}: {nearest(given[name], allowed)}")
        values |= {name: given[name]} if name in given else {}
    values |= {name: number(name, given[name], int, 1) for name in ("threads", "rounds") if name in given}
    values |= {name: number(name, given[name], float) for name in ("seconds", "tune") if name in given}
    values |= {"batches": tuple(_batches(given["batch"]))} if "batch" in given else {}
    values |= {name: Path(given[name]).expanduser() for name in ("output", "folder") if name in given}
    return Request(**values, uri=given.get("tracking.uri"))


def _check_keys(overrides: Sequence[str]) -> None:
    """UserError where an override begins with what neither a bench nor an experiment has; the rest is for Hydra."""
    from paredown.config import root, roots  # Hydra: not for --help

    known = {*KNOWN, *roots()}
    for word in overrides:
        if root(word) not in known:
            settings([word], known)


def _batches(text: str) -> list[int]:
    return [int(number("batch", part, int, 1)) for part in several(text)]
