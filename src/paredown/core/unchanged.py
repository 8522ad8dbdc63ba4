"""What is computed once of a network that nobody changes: of the dense network on which many plans are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from paredown.core.network import Network

Function = TypeVar("Function", bound=Callable[..., Any])
FOUND: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()  # of each module, by function and arguments


def declare_unchanged(network: Network) -> Network:
    """Let `once` remember what is found of `network`, whose module nobody changes from here on; copies are free."""
    FOUND.setdefault(network.module, {})
    return network


def once(function: Function) -> Function:
    """Remember the results of a `function` of a network, or its module, and of hashable arguments, where that was
    declared unchanged. The results are read only."""

    @wraps(function)
    def call(subject: Network | nn.Module, *arguments: Any, **named: Any) -> Any:
        found = FOUND.get(subject.module if isinstance(subject, Network) else subject)
        if found is None:
            return function(subject, *arguments, **named)
        place = (function, *arguments, *sorted(named.items()))
        if place not in found:
            found[place] = function(subject, *arguments, **named)
        return found[place]

    return call  # type: ignore[return-value]
