"""A sweep as a person writes it: a yaml below `sweeps/`, and what the command line changes of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from paredown.config import ControlKind, make, root, roots
from paredown.errors import UserError, nearest

FOLDER = Path(__file__).parents[3] / "sweeps"
CONTROLS: tuple[str, ...] = get_args(ControlKind)


@dataclass(frozen=True)
class Resources:
    """What one experiment takes: CPUs, GPUs (0.25: four experiments share one) and, above 1, processes under DDP,
    each with so many CPUs and GPUs, on one node or, through Ray Train, wherever there is room."""

    cpus: float = 1
    gpus: float = 0
    workers: int = 1
    across_nodes: bool = False


@dataclass(frozen=True)
class Metrics:
    """What the table, the front and a search look at: `accuracy` is raised, `cost` lowered."""

    accuracy: str = "final/top1"
    cost: str = "cost/macs"


@dataclass(frozen=True)
class Dimension:
    """The values a search may give to one key: `choices`, or numbers from `low` to `high` (whole ones if both are)."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def first(self) -> Any:
        """One of the values."""
        return self.choices[0] if self.choices else self.low

    def wrong(self) -> str | None:
        """What is the matter with it, or None."""
        if self.choices:
            return None if self.low is None and self.high is None else "has choices and numbers"
        if self.low is None or self.high is None or not self.low < self.high:
            return "needs choices, or low below high"
        return "needs low above 0 where log is set" if self.log and self.low <= 0 else None


@dataclass(frozen=True)
class Search:
    """Optuna chooses `trials` experiments from `space`, `concurrent` of them at a time. `nsga2` and `random` weigh
    metrics.accuracy against metrics.cost; `tpe` does too, unless `cost` is false."""

    space: Mapping[str, Dimension]
    algorithm: Literal["random", "tpe", "nsga2"] = "tpe"
    trials: int = 20
    concurrent: int = 4
    seed: int = 0
    cost: bool = True


@dataclass(frozen=True)
class Stop:
    """End experiments early whose `metric` lags behind the others' after as many epochs, but not before `grace`. It
    judges accuracy alone, and so may end small networks that belong on the front."""

    rule: Literal["none", "asha", "median"] = "none"
    metric: str = "val/top1"
    grace: int = 10


@dataclass(frozen=True)
class Cluster:
    """Where: `local` starts a Ray of its own on this machine, `ray` joins the one at `address`."""

    kind: Literal["local", "ray"] = "local"
    address: str = "auto"
    dashboard: bool = False  # of a local Ray: a page in the browser for a gigabyte of memory


@dataclass(frozen=True)
class Sweep:
    """A sweep file. Its experiments are every combination of `grid` and every entry of `points`, each with every one
    of `seeds`, on top of `overrides` (Hydra's language, as after src/run.py); `typed` wins over all of them. `controls`
    (true: every kind) are added for each compressed network when it is done."""

    name: str
    description: str = ""
    overrides: tuple[str, ...] = ()
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    points: tuple[tuple[str, ...], ...] = ()
    seeds: tuple[int, ...] = ()
    search: Search | None = None
    controls: bool | str | tuple[str, ...] = ()
    stop: Stop = Stop()
    resources: Resources = Resources()
    metrics: Metrics = Metrics()
    cluster: Cluster = Cluster()
    retries: int = 3  # for an experiment whose process or node died; one that raises is not tried again
    reuse_actors: bool = True
    typed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={value!r} ({rule})"
            for name, value, rule, holds in (
                ("resources.cpus", self.resources.cpus, "above 0", self.resources.cpus > 0),
                ("resources.gpus", self.resources.gpus, "at least 0", self.resources.gpus >= 0),
                ("resources.workers", self.resources.workers, "at least 1", self.resources.workers >= 1),
                ("resources.across_nodes", True, "for 2 resources.workers or more", self._may_spread),
                ("retries", self.retries, "at least 0", self.retries >= 0),
                (
                    "controls",
                    list(self.control_kinds),
                    f"some of {', '.join(CONTROLS)}, or true",
                    {*self.control_kinds} <= {*CONTROLS},
                ),
                *_wrong_search(self),
                *((f"grid.{key}", list(values), "at least one value", values) for key, values in self.grid.items()),
            )
            if not holds
        ]
        if wrong:
            raise UserError(f"sweep {self.name}: {'; '.join(wrong)}")

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kinds of control that are wanted."""
        if isinstance(self.controls, bool):
            return CONTROLS if self.controls else ()
        return (self.controls,) if isinstance(self.controls, str) else self.controls

    @property
    def _may_spread(self) -> bool:
        return self.resources.workers > 1 or not self.resources.across_nodes


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep: what sets it apart from the others, and all its overrides."""

    label: str
    overrides: tuple[str, ...]


NESTED = {"resources": Resources, "metrics": Metrics, "cluster": Cluster, "stop": Stop}
SETTINGS = {f.name for f in fields(Sweep)} - {"name", "typed", "overrides"} | {"sweep"}


def load(words: Sequence[str]) -> Sweep:
    """The sweep that `words` (the command line) ask for: a file, or published rows with reproduce=NAME.

    Raises UserError for whatever is wrong with it or its file.
    """
    words, published = _published(words)
    own = [word for word in words if root(word) in SETTINGS]
    known = {*SETTINGS, *roots(), "hydra"}
    if unknown := [root(word) for word in words if "=" in word and root(word) not in known]:
        raise UserError(f"unknown key {unknown[0]!r}: {nearest(unknown[0], known)}")
    name = next((word.partition("=")[2] for word in own if word.startswith("sweep=")), "")
    path = published.path if published else _find(name)
    try:
        values: Any = published.values if published else OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        if not isinstance(values, dict):
            raise UserError(f"{path} is no sweep: it holds no settings (see docs/sweeps.md)")
        given = [_long_form(word) for word in own if not word.startswith("sweep=")]
        typed: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    return _checked(path, values, typed, tuple(word for word in words if word not in own))


@dataclass(frozen=True)
class _Published:
    """A table of a paper in place of a sweep file."""

    path: Path
    values: dict[str, Any]


def _published(words: Sequence[str]) -> tuple[list[str], _Published | None]:
    """What of `words` remains, and the rows that reproduce=NAME asks for; model=NAME chooses among them."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("reproduce=", "model=")))
    if not (name := given.get("reproduce")):
        return list(words), None
    from paredown.reproduce import runnable

    settings, model = runnable(name, given.get("model"))
    stem = "-".join(["reproduce", *name.split("/"), *([model] if model else [])])
    points = [[*row, f"reproduce={row_name}"] for row_name, row in settings.items()]
    rest = [word for word in words if not word.startswith(("reproduce=", "model="))]
    text = f"{len(points)} published rows of {name}"
    return rest, _Published(Path(f"{stem}.yaml"), {"description": text, "points": points, "seeds": [0, 1, 2]})


def points(sweep: Sweep) -> Iterator[Point]:
    """Every experiment of `sweep`, in the file's order; a seed's experiments follow each other."""
    combinations = [
        tuple(f"{key}={_word(value)}" for key, value in zip(sweep.grid, values, strict=True))
        for values in itertools.product(*sweep.grid.values())
    ]
    own = [*combinations, *sweep.points] if sweep.grid or not sweep.points else [*sweep.points]
    common = set.intersection(*map(set, own)) if len(own) > 1 else set()
    seeds: list[tuple[str, ...]] = [(f"seed={seed}",) for seed in sweep.seeds] or [()]
    for seed, words in itertools.product(seeds, own):
        apart = (*words, *seed)
        overrides = merged(sweep.overrides, apart, sweep.typed)
        yield Point(" ".join(word for word in apart if word in overrides and word not in common), overrides)


def proposed(sweep: Sweep, values: Mapping[str, Any]) -> Point:
    """The experiment of a search that gives the keys of its space these `values`."""
    apart = tuple(f"{key}={_word(value)}" for key, value in values.items())
    seeds = tuple(f"seed={seed}" for seed in sweep.seeds)
    return Point(" ".join(apart), merged(sweep.overrides, seeds, apart, sweep.typed))


def control_points(sweep: Sweep, point: Point) -> Iterator[Point]:
    """The controls of `point` that `sweep` asks for."""
    for kind in sweep.control_kinds:
        yield Point(f"{point.label} control={kind}".strip(), merged(point.overrides, (f"control={kind}",)))


def merged(*lists: Sequence[str]) -> tuple[str, ...]:
    """`lists` of overrides one after another, of each key the last alone."""
    last = {word.partition("=")[0].lstrip("+~"): word for words in lists for word in words}
    return tuple(last.values())


def _find(name: str) -> Path:
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    if not name:
        raise UserError(f"which sweep? give sweep=NAME; {nearest(name, known)}")
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no sweep {name!r}: {nearest(name, known)} (or the path of a .yaml)")
    return path


def _long_form(word: str) -> str:
    return word.replace("cluster=", "cluster.kind=", 1) if word.startswith("cluster=") else word


def _checked(path: Path, values: dict[str, Any], typed: dict[str, Any], rest: tuple[str, ...]) -> Sweep:
    known = {f.name for f in fields(Sweep)} - {"name", "typed"}
    for key in [*values, *typed]:
        if key not in known:
            raise UserError(f"{path}: unknown setting {key!r}: {nearest(key, known)}")
    made: dict[str, Any] = {
        name: make(kind, (values.get(name) or {}) | (typed.pop(name, None) or {}), name)
        for name, kind in NESTED.items()
    }
    if (search := (values.get("search") or {}) | (typed.pop("search", None) or {})) != {}:
        space = search.get("space") or {}
        if not isinstance(space, dict) or not space:
            raise UserError(f"search.space={space!r} names nothing to search: write key: {{low: .., high: ..}}")
        dimensions = {key: make(Dimension, values, f"search.space.{key}") for key, values in space.items()}
        made["search"] = make(Search, search | {"space": dimensions}, "search")
    stripped = {
        key: value for key, value in (values | typed).items() if key not in {*NESTED, "search"} and value is not None
    }
    return make(Sweep, stripped | made | {"name": path.stem, "typed": rest}, f"sweep {path.stem}")


def _wrong_search(sweep: Sweep) -> list[tuple[str, Any, str, bool]]:
    if sweep.search is None:
        return []
    dimensions = [
        (f"search.space.{key}", dim, dim.wrong() or "", not dim.wrong()) for key, dim in sweep.search.space.items()
    ]
    return [
        *dimensions,
        ("search.trials", sweep.search.trials, "at least 1", sweep.search.trials >= 1),
        ("search.concurrent", sweep.search.concurrent, "at least 1", sweep.search.concurrent >= 1),
        ("grid", dict(sweep.grid), "none beside a search: it is one or the other", not sweep.grid),
        ("points", list(sweep.points), "none beside a search", not sweep.points),
        ("seeds", list(sweep.seeds), "one at most beside a search", len(sweep.seeds) <= 1),
    ]


def _word(value: Any) -> str:
    """A value of a yaml as Hydra's language writes it; text is taken as it stands."""
    return value if isinstance(value, str) else json.dumps(value)
