"""The specification of a sweep: a yaml file below `sweeps/`, and what the command line changes of it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import MinLen
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from paredown.core.config import ControlKind
from paredown.core.constraints import Checked, Count, NonNegative, NonNegativeInt, Positive, Rule, make
from paredown.core.errors import UserError, nearest
from paredown.core.words import HYDRA, TRUST, root, roots, sweep_files
from paredown.core.yaml_files import read_yaml
from paredown.published.settings import left, only_row, with_row
from paredown.sweep.metric_names import no_epoch, no_result

CONTROLS: tuple[ControlKind, ...] = get_args(ControlKind)
CONTROL_KINDS = "controls"  # the word of a point that names its controls
PLAIN = re.compile(
    r"\w[\w.+ -]{0,99}"
)  # a name of folders, of a sweep in MLflow's filters, and of an experiment of Ray
PLAIN_WORDS = "letters, digits, . _ + - and spaces, 100 at most, a letter or digit first"
Values = Annotated[tuple[Any, ...], MinLen(1), Rule("at least one value")]


@dataclass(frozen=True)
class Resources(Checked):
    """The resources of one experiment: CPUs, GPUs (0.25: four experiments share one) and, above 1, DDP processes, each
    with that many CPUs and GPUs, on one node or, through Ray Train, on several."""

    section: ClassVar[str] = "resources"

    cpus: Positive = 1
    gpus: NonNegative = 0
    workers: Count = 1
    across_nodes: bool = False


@dataclass(frozen=True)
class Metrics(Checked):
    """The metrics of the table, the front and a search: `accuracy` is maximised, `cost` minimised."""

    section: ClassVar[str] = "metrics"

    accuracy: str = "final/top1"
    cost: str = "cost/macs"


@dataclass(frozen=True)
class Dimension(Checked):
    """The values of one key in a search: `choices`, or numbers from `low` to `high` (integers if both are)."""

    section: ClassVar[str] = "search.space"

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def first(self) -> Any:
        """The first of the values."""
        return self.choices[0] if self.choices else self.low

    def wrong(self) -> str | None:
        """Return what is wrong with the dimension, or None."""
        if any(isinstance(choice, float) and not math.isfinite(choice) for choice in self.choices):
            return "has a choice that is not finite"
        if self.choices:
            return None if self.low is None and self.high is None else "has choices and numbers"
        if self.low is None or self.high is None or not self.low < self.high:
            return "needs choices, or low below high"
        return "needs low above 0 where log is set" if self.log and self.low <= 0 else None


@dataclass(frozen=True)
class Search(Checked):
    """A search by Optuna for `trials` experiments in `space`, `concurrent` at a time. `nsga2` and `random` trade
    metrics.accuracy against metrics.cost; `tpe` does too, unless `cost` is false."""

    section: ClassVar[str] = "search"

    space: Annotated[Mapping[str, Dimension], MinLen(1), Rule("at least one key: {low: .., high: ..}")]
    algorithm: Literal["random", "tpe", "nsga2"] = "tpe"
    trials: Count = 20
    concurrent: Count = 4
    seed: int = 0
    cost: bool = True


@dataclass(frozen=True)
class Stop(Checked):
    """Early stopping of experiments whose `metric` is worse than the others' at the same epoch, from epoch `grace` on.
    It compares accuracy alone, so it may stop small networks that belong on the front."""

    section: ClassVar[str] = "stop"

    rule: Literal["none", "asha", "median"] = "none"
    metric: str = "val/top1"
    grace: NonNegativeInt = 10


@dataclass(frozen=True)
class Cluster(Checked):
    """The Ray cluster: `local` starts one on this machine, `ray` connects to the one at `address`."""

    section: ClassVar[str] = "cluster"

    kind: Literal["local", "ray"] = "local"
    address: str = "auto"
    dashboard: bool = False  # of a local Ray: a page in the browser for a gigabyte of memory


@dataclass(frozen=True)
class Sweep(Checked):
    """A sweep file. Its experiments are every combination of `grid` and every entry of `points`, each with every one
    of `seeds`, on top of `overrides` (Hydra's language, as after src/run.py) and of those of one of `protocols`, the
    first or `protocol`; `typed` wins over all of them. `controls` (true: every kind) are added for each compressed
    network when it is done; `controls=[random]` in a point is for that point alone."""

    section: ClassVar[str] = "sweep"

    name: str
    description: str = ""
    overrides: tuple[str, ...] = ()
    protocols: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocol: str | None = None
    grid: Mapping[str, Values] = field(default_factory=dict)
    points: tuple[tuple[str, ...], ...] = ()
    seeds: tuple[int, ...] = ()
    search: Search | None = None
    controls: bool | ControlKind | tuple[ControlKind, ...] = ()
    stop: Stop = field(default_factory=Stop)
    resources: Resources = field(default_factory=Resources)
    metrics: Metrics = field(default_factory=Metrics)
    cluster: Cluster = field(default_factory=Cluster)
    retries: NonNegativeInt = 3  # for an experiment whose process or node died; one that raises is not tried again
    reuse_actors: bool = True
    typed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = [f"{name}={value!r} ({rule})" for name, value, rule in _wrong_together(self)]
        if wrong:
            raise UserError("; ".join(wrong))

    @property
    def control_kinds(self) -> tuple[ControlKind, ...]:
        """The kinds of control that are asked for."""
        if isinstance(self.controls, bool):
            return CONTROLS if self.controls else ()
        return (self.controls,) if isinstance(self.controls, str) else self.controls

    @property
    def common(self) -> tuple[str, ...]:
        """The overrides of every experiment: those of the file and of the protocol."""
        chosen = self.protocol or next(iter(self.protocols), None)
        return merged(self.overrides, self.protocols[chosen]) if chosen else self.overrides


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep: a label of what differs from the others, all its overrides, and its controls."""

    label: str
    overrides: tuple[str, ...]
    controls: tuple[ControlKind, ...] = ()


PARTS = ("resources", "metrics", "cluster", "stop", "search")  # the command line changes single settings of these
SETTINGS = {f.name for f in fields(Sweep)} - {"name", "typed", "overrides"} | {"sweep"}


def load(words: Sequence[str]) -> Sweep:
    """Return the sweep that `words` (the command line) ask for: a file, or published rows with reproduce=NAME.

    Raise UserError for whatever is wrong with it or its file.
    """
    words, published = _published(words)
    own = [word for word in words if root(word) in SETTINGS]
    known = {*SETTINGS, *roots(), "hydra"}
    if unknown := [root(word) for word in words if "=" in word and root(word) not in known]:
        raise UserError(f"unknown key {unknown[0]!r}: {nearest(unknown[0], known)}")
    name = next((word.partition("=")[2] for word in own if word.startswith("sweep=")), "")
    known_sweeps = sweep_files(words)
    if not name and (alone := next((word for word in words if word in known_sweeps), "")):
        raise UserError(f"cannot read {alone!r}: write sweep={alone}")
    path = published.path if published else _find(name, known_sweeps)
    try:
        values: Any = published.values if published else read_yaml(path, "mend it, see docs/sweeps.md")
        if not isinstance(values, dict):
            raise UserError(f"{path} is no sweep: it holds no settings (see docs/sweeps.md)")
        given = [_long_form(word) for word in own if not word.startswith("sweep=")]
        typed: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    return _checked(path, values, typed, tuple(word for word in words if word not in own))


@dataclass(frozen=True)
class _Published:
    """A table of a paper instead of a sweep file."""

    path: Path
    values: dict[str, Any]


def _published(words: Sequence[str]) -> tuple[list[str], _Published | None]:
    """Split `words` into the others and the rows that reproduce=NAME asks for, of model=NAME if given."""
    given = dict(word.split("=", 1) for word in words if word.startswith(("reproduce=", "model=")))
    if not (name := given.get("reproduce")):
        return list(words), None
    from paredown.run.reproduce import runnable

    model = given.get("model")
    settings = runnable(name, model)
    stem = "-".join(["reproduce", *name.split("/"), *([model] if model else [])])
    rest = [word for word in words if not word.startswith(("reproduce=", "model="))]
    points = [[*left(only_row(row_name), rest), f"reproduce={row_name}"] for row_name in settings]
    text = f"{len(points)} published rows of {name}"
    return rest, _Published(Path(f"{stem}.yaml"), {"description": text, "points": points, "seeds": [0, 1, 2]})


def points(sweep: Sweep) -> Iterator[Point]:
    """Yield every experiment of `sweep` in the file's order, one seed after another."""
    combinations = [
        tuple(f"{key}={_word(value)}" for key, value in zip(sweep.grid, values, strict=True))
        for values in itertools.product(*sweep.grid.values())
    ]
    own = [*combinations, *sweep.points] if sweep.grid or not sweep.points else [*sweep.points]
    common = set.intersection(*map(set, own)) if len(own) > 1 else set()
    seeds: list[tuple[str, ...]] = [(f"seed={seed}",) for seed in sweep.seeds] or [()]
    for seed, words in itertools.product(seeds, own):
        apart = tuple(word for word in (*words, *seed) if root(word) != CONTROL_KINDS)
        overrides = merged(sweep.common, apart, sweep.typed)
        label = " ".join(word for word in apart if word in overrides and word not in common)
        yield Point(label, tuple(with_row(list(overrides))), (*sweep.control_kinds, *_own_controls(words)))


def proposed(sweep: Sweep, values: Mapping[str, Any]) -> Point:
    """Return the experiment of a search that sets the keys of its space to `values`."""
    apart = tuple(f"{key}={_word(value)}" for key, value in values.items())
    seeds = tuple(f"seed={seed}" for seed in sweep.seeds)
    overrides = tuple(with_row(list(merged(sweep.common, seeds, apart, sweep.typed))))
    return Point(" ".join(apart), overrides, sweep.control_kinds)


def _own_controls(words: Sequence[str]) -> tuple[ControlKind, ...]:
    """Return the controls that a point names for itself. Raise UserError for an unknown kind."""
    named = [word.partition("=")[2].strip("[] ") for word in words if root(word) == CONTROL_KINDS]
    kinds = [kind.strip() for text in named for kind in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in CONTROLS]:
        raise UserError(f"controls={unknown[0]}: {nearest(unknown[0], CONTROLS)}")
    return tuple(kind for kind in CONTROLS if kind in kinds)


def control_points(point: Point) -> Iterator[Point]:
    """Yield the controls of `point`."""
    for kind in dict.fromkeys(point.controls):
        yield Point(f"{point.label} control={kind}".strip(), merged(point.overrides, (f"control={kind}",)))


def merged(*lists: Sequence[str]) -> tuple[str, ...]:
    """Concatenate `lists` of overrides; of each key the last override wins."""
    last = {_key(word): word for words in lists for word in words}
    return tuple(last.values())


def _find(name: str, known: Mapping[str, Path]) -> Path:
    if not name:
        raise UserError(f"which sweep? give sweep=NAME; {nearest(name, known)}")
    path = Path(name) if name.endswith((".yaml", ".yml")) or "/" in name else known.get(name)
    if path is not None and not path.is_file():
        raise UserError(f"sweep={name}: there is no such file")
    if path is None:
        raise UserError(f"no sweep {name!r}: {nearest(name, known)} (or the path of a .yaml)")
    return path


def _long_form(word: str) -> str:
    return word.replace("cluster=", "cluster.kind=", 1) if word.startswith("cluster=") else word


def _checked(path: Path, values: dict[str, Any], typed: dict[str, Any], rest: tuple[str, ...]) -> Sweep:
    known = {f.name for f in fields(Sweep)} - {"name", "typed"}
    for key in [*values, *typed]:
        if key not in known:
            raise UserError(f"{path}: unknown setting {key!r}: {nearest(key, known)}")
    pairs = {key: (values.get(key), typed.get(key)) for key in PARTS}
    parts = {key: a | b for key, (a, b) in pairs.items() if isinstance(a, dict) and isinstance(b, dict)}
    given = {key: value for key, value in (values | typed | parts).items() if value is not None}
    try:
        protocol = f"-{given['protocol']}" if given.get("protocol") else ""
        made = make(Sweep, given | {"name": f"{path.stem}{protocol}", "typed": rest}, "")
        _refuse_trust(made, typed.get("cluster", {}))
        return made
    except UserError as error:
        raise UserError(f"sweep {path.stem}: {error}") from error


def _refuse_trust(sweep: Sweep, typed_cluster: Any) -> None:
    """Raise UserError where the file says what is trusted, what Hydra reads and calls, or which cluster to join (a
    client runs what a cluster sends it): a person types that."""
    if sweep.cluster.address != Cluster().address and "address" not in typed_cluster:
        raise UserError(
            f"cluster.address={sweep.cluster.address}: a file cannot name a cluster, type it if you mean it"
        )
    space = sweep.search.space if sweep.search else {}
    words = itertools.chain(sweep.overrides, *sweep.protocols.values(), *sweep.points, sweep.grid, space)
    for word in words:
        if root(word) in (TRUST, HYDRA):
            raise UserError(f"{word}: a file cannot set {root(word)}, type it after src/sweep.py if you mean it")


def _wrong_together(sweep: Sweep) -> Iterator[tuple[str, Any, str]]:
    """Name, value and rule of each setting that does not fit the others."""
    yield from _wrong_names(sweep)
    if sweep.resources.across_nodes and sweep.resources.workers == 1:
        yield "resources.across_nodes", True, "for 2 resources.workers or more"
    yield from _wrong_metrics(sweep)
    yield from _given_twice(sweep)
    if sweep.search is None:
        return
    for key, dimension in sweep.search.space.items():
        if wrong := dimension.wrong():
            yield f"search.space.{key}", dimension, wrong
    if sweep.grid:
        yield "grid", dict(sweep.grid), "none beside a search: it is one or the other"
    if sweep.points:
        yield "points", list(sweep.points), "none beside a search"
    if len(sweep.seeds) > 1:
        yield "seeds", list(sweep.seeds), "one at most beside a search"


def _wrong_names(sweep: Sweep) -> Iterator[tuple[str, Any, str]]:
    """Yield the names that are no names of a folder, and a protocol that the sweep does not have."""
    odd = [name for name in sweep.protocols if not PLAIN.fullmatch(name)]
    for name in odd:
        yield "protocols", name, PLAIN_WORDS
    if sweep.protocol is not None and sweep.protocol not in sweep.protocols:
        known = nearest(sweep.protocol, sweep.protocols) if sweep.protocols else "this sweep has none"
        yield "protocol", sweep.protocol, known
    elif not odd and not PLAIN.fullmatch(sweep.name):
        yield "name", sweep.name, PLAIN_WORDS


def _wrong_metrics(sweep: Sweep) -> Iterator[tuple[str, Any, str]]:
    """Yield the metrics that no run records: without them the table, the front and a search have nothing to look at,
    and a rule stops nothing."""
    for key in ("accuracy", "cost"):
        if wrong := no_result(name := getattr(sweep.metrics, key)):
            yield f"metrics.{key}", name, wrong
    if sweep.stop.rule != "none" and (wrong := no_epoch(sweep.stop.metric)):
        yield "stop.metric", sweep.stop.metric, wrong


def _given_twice(sweep: Sweep) -> Iterator[tuple[str, Any, str]]:
    """Yield what gives a key two values, of which `merged` would drop one without a word."""
    space = sweep.search.space if sweep.search else {}
    groups = {"grid": [*sweep.grid], "search.space": [*space]}
    groups |= {f"points.{number}": [*point] for number, point in enumerate(sweep.points)}
    for where, words in groups.items():
        counts = Counter(_key(word) for word in words if root(word) != CONTROL_KINDS)  # controls add up
        for key in (key for key, count in counts.items() if count > 1):
            yield where, words, f"{key} is given twice"
        if sweep.seeds and "seed" in counts:
            yield where, words, "no seed beside seeds: it is one or the other"


def _key(word: str) -> str:
    """Return the key that the override `word` sets, however it is written (key=, +key=, ++key=, ~key)."""
    return word.partition("=")[0].lstrip("+~")


def _word(value: Any) -> str:
    """Return a value of a yaml in Hydra's syntax; text is left as it is."""
    return value if isinstance(value, str) else json.dumps(value)
