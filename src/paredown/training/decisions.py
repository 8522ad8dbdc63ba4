"""Decisions on settings of the recipe that are auto: one of two forms of a training step, by their times here, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from paredown.core import distributed
from paredown.store.states import DECISIONS, Store
from paredown.training.timed_step import Step

MARGIN = 0.95  # the second form is taken where it needs less than this share of the time of the first
Value = TypeVar("Value", bound=str | bool)
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Auto(Generic[Value]):
    """The `setting` of a recipe that is decided, and the names of its two values: first the one that is taken where
    neither is clearly faster."""

    setting: str
    names: Mapping[Value, str]

    def by_times(
        self, step: Step, place: Mapping[str, Any], seconds: Callable[[], Collection[float]]
    ) -> tuple[Value, str]:
        """Return the value that is faster by the `seconds` of `step` with each on the machine of the facts `place`, and
        why; the first where they cannot be measured."""
        first, second = self.names
        try:
            took = tuple(seconds())
        except (RuntimeError, ValueError) as error:  # out of memory, say
            reason = str(error).partition("\n")[0]
            return first, f"{self.names[first]}: {step} cannot be timed ({reason})"
        value = second if took[1] < MARGIN * took[0] else first
        said = " and ".join(
            f"{1e3 * one:.1f} ms in {name}" for one, name in zip(took, self.names.values(), strict=True)
        )
        where = f"{place['device']}, {place['threads']} threads"
        return value, f"{self.names[value]}: {step} takes {said} ({where})"

    def kept(self, text: str) -> tuple[Value, str] | None:
        """Return the value in what an output keeps, and why it was chosen; None where it is damaged."""
        try:
            data = json.loads(text)
            value, why = data[self.setting], str(data["why"])
            return (value, why) if type(value) is type(next(iter(self.names))) and value in self.names else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


@dataclass(frozen=True)
class Decision(Generic[Value]):
    """What a setting that was auto became, and why. An output keeps it as `record`: a fit that goes on after a kill
    ends bit-equal."""

    of: Auto[Value]
    record: str
    value: Value
    why: str


def decide(of: Auto[Value], record: str, by_times: Callable[[], tuple[Value, str]], store: Store) -> Decision[Value]:
    """Decide as the output of `store` has begun, else `by_times`, which gives a value and why. Among several ranks rank
    0 decides."""
    if not distributed.launched():
        return _decided(of, record, by_times, store)
    distributed.join()
    own = None if distributed.rank() else _decided(of, record, by_times, store)
    first, second = of.names
    is_second = distributed.from_rank_zero(own is not None and own.value == second)
    return own or Decision(of, record, second if is_second else first, "as rank 0 decided")


def begin(decision: Decision[Value], store: Store) -> Value:
    """Keep `decision` in the output of `store` and return the value that it has begun with: of several processes that
    begin at once, the first decides for all. Log what was decided, and why, once."""
    of, value, why = decision.of, decision.value, decision.why
    if not distributed.rank():
        text = json.dumps({of.setting: value, "why": why})
        begun = of.kept(store.remember(decision.record, text))
        if begun and begun[0] != value:
            value, why = begun
        _tell(f"recipe.{of.setting}=auto: {why}")
    first, second = of.names
    return second if distributed.from_rank_zero(value == second) else first


def _decided(of: Auto[Value], record: str, by_times: Callable[[], tuple[Value, str]], store: Store) -> Decision[Value]:
    if (text := store.recall(record)) is not None:
        if begun := of.kept(text):
            value, why = begun
            return Decision(of, record, value, f"{of.names[value]}, as this output has begun ({why})")
        log.warning("%s is damaged and ignored: delete it", store.root / DECISIONS / record)
    return Decision(of, record, *by_times())


@cache
def _tell(line: str) -> None:
    log.info("%s", line)
