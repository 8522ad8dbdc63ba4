"""What runs now and how far it is: long pieces of work enter themselves here, and a display reads it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from paredown.core.formatting import duration, grouped

Mode = Literal["auto", "lines", "plot", "off"]  # see conf/config.yaml
Item = TypeVar("Item")
Curves = dict[str, dict[str, list[tuple[float, float]]]]  # by panel and name: (epoch, value)


@dataclass(eq=False)
class Work:
    """A piece of work of `total` steps (None: unknown), each a `unit`, of which `done` are done and `before` were when
    it began; `images` went through the network, `figures` say how it goes."""

    name: str
    total: float | None = None
    unit: str = "batches"
    done: float = 0.0
    images: int = 0
    figures: str = ""
    curves: Curves = field(default_factory=dict)
    before: float = field(init=False)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.before, self.began = self.done, time.monotonic()

    def advance(self, steps: float = 1.0, images: int = 0) -> None:
        """Count `steps` more, with their `images`."""
        self.done += steps
        self.images += images

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """How many seconds are left at the mean pace so far, None where that is unknown."""
        since = self.done - self.before
        return None if not self.total or since <= 0 else max(0.0, self.seconds * (self.total - self.done) / since)

    def amount(self) -> str:
        """Return what is done of what there is to do, as 128/391 batches."""
        if not self.total:
            return f"{grouped(self.done)} {self.unit}" if self.done else ""
        return f"{grouped(int(self.done))}/{grouped(self.total)} {self.unit}"

    def details(self) -> list[str]:
        """Return the pace, the time that is left, or that has passed where that is unknown, and the figures."""
        rate = f"{grouped(self.images / self.seconds)} images/s" if self.images and self.seconds else ""
        time_ = f"{duration(self.seconds)} so far" if self.left is None else f"{duration(self.left)} left"
        return [part for part in (rate, time_, self.figures) if part]

    def line(self) -> str:
        """Return all of it in words."""
        return f"{self.name}: {', '.join(filter(None, (self.amount(), *self.details())))}"


class Listener(Protocol):
    """What shows the works."""

    def tell(self, line: str) -> None:
        """Show `line`."""

    def closing(self, work: Work) -> None:
        """Show what stays of `work`, which ends."""


class _State:
    under_way: ClassVar[list[Work]] = []  # the outermost first
    listener: Listener | None = None


def mode_of(value: Any) -> Any:
    """Return the mode that true and false stand for; anything else as it is."""
    return {True: "auto", False: "off"}[value] if isinstance(value, bool) else value


def under_way() -> list[Work]:
    """Return the works that run now, the outermost first."""
    return list(_State.under_way)


def begin(work: Work) -> Work:
    """Enter `work`, which lasts until it is `ended`; return it."""
    _State.under_way.append(work)
    return work


def ended(work: Work | None) -> None:
    """Take `work` and what was entered within it off; nothing where it is off already."""
    if work in _State.under_way:
        if _State.listener is not None:
            _State.listener.closing(work)
        del _State.under_way[_State.under_way.index(work) :]


@contextmanager
def working_on(name: str, total: float | None = None, unit: str = "steps") -> Iterator[Work]:
    """Enter a piece of work for the `with` block."""
    work = begin(Work(name, total, unit))
    try:
        yield work
    finally:
        ended(work)


def passed(batches: Iterable[Any], name: str, most: int | None = None) -> Iterator[Any]:
    """Yield `batches`, pairs of images and labels, as the work `name`; whoever takes them stops after `most`."""
    found = (len(batches) if isinstance(batches, Sized) else None, most)
    total = min((one for one in found if one is not None), default=None)
    with working_on(name, total, "batches") as work:
        for batch in batches:
            yield batch
            work.advance(1, len(batch[0]))


def each(items: Collection[Item], name: str, unit: str = "layers") -> Iterator[Item]:
    """Yield `items` one by one as the work `name`."""
    with working_on(name, len(items), unit) as work:
        for item in items:
            yield item
            work.advance()


def tell(line: str) -> None:
    """Say `line` where there are lines only; a moving display shows what it says all the time."""
    if _State.listener is not None:
        _State.listener.tell(line)


def heard() -> bool:
    """Return whether anything shows what runs."""
    return _State.listener is not None


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Show the works of the `with` block by `listener`, and forget them behind it."""
    _State.listener = listener
    _State.under_way.clear()
    try:
        yield
    finally:
        _State.listener = None
        _State.under_way.clear()
