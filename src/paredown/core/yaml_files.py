"""Yaml files as data: bounded, and calling no resolver of OmegaConf."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError
from paredown.core.files import read_text, reading

LARGEST_YAML = 2**20  # bytes
DEEPEST_YAML, MOST_NODES = 50, 100_000  # levels of a yaml, and its values once aliases are written out
MOST_REFERENCES = 12  # ${...} of a yaml: each may repeat others, and so multiply what it holds
ALONE = threading.RLock()  # Hydra's state, and OmegaConf's resolvers, are the process's: threads compose in turn
OWN_VALUES = "a file refers to its own values alone, as ${overrides}"


def read_yaml(path: Path, remedy: str, resolve: bool = True) -> Any:
    """Return the contents of a yaml file as plain data, references to its own values resolved unless `resolve` is
    false, as for a file that refers to others' values. Raise UserError for one that is damaged, too deep, or too large
    once its aliases are written out, or that calls a resolver: `oc.env` reads the environment."""
    import yaml
    from omegaconf import OmegaConf

    text = read_text(path, remedy, LARGEST_YAML)
    with reading(path, remedy):
        if (references := text.count("${")) > MOST_REFERENCES:
            raise UserError(f"it has {references} references ${{...}}, more than {MOST_REFERENCES}")
        _bound(yaml.parse(text, Loader=yaml.SafeLoader))
        with no_environment():
            found = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=resolve)
        if resolve and "${" in (left := json.dumps(found, default=str)):  # put together by references
            raise UserError(f"it makes {left[left.index('${') :][:40]}: {OWN_VALUES}")
        return found


def calls_resolver(text: str) -> bool:
    """Tell whether OmegaConf would call a resolver, `${NAME:ARGUMENTS}`, for `text`, or cannot read it."""
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
    from omegaconf.grammar_parser import parse

    if "${" not in text:
        return False
    try:
        waiting = [parse(text)]
    except GrammarParseError:
        return True
    while waiting:
        node = waiting.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            return True
        waiting += getattr(node, "children", None) or []
    return False


@contextmanager
def no_environment() -> Iterator[None]:
    """Let OmegaConf read no environment variable in the `with` block, whatever a file asks of it."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    OmegaConf.clear_resolver("oc.env")
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _refuse_resolvers(text: str) -> None:
    if calls_resolver(text):
        raise UserError(f"it calls {text[text.index('${') :][:40]}: {OWN_VALUES}")


def _bound(events: Iterator[Any]) -> None:
    """Raise UserError where a yaml of these `events` nests or expands too far; an alias counts as what it repeats."""
    import yaml

    sizes: dict[str, int] = {}  # nodes below each anchor
    open_nodes: list[tuple[str | None, int]] = []  # anchor of each open collection, and the nodes before it
    nodes = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UserError(f"the alias *{event.anchor} repeats itself or nothing")
            nodes += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes |= {anchor: nodes - before} if anchor else {}
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if isinstance(event, yaml.ScalarEvent):
                _refuse_resolvers(event.value)
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, nodes - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if len(open_nodes) > DEEPEST_YAML:
            raise UserError(f"it nests more than {DEEPEST_YAML} levels")
        if nodes > MOST_NODES:
            raise UserError(f"it has more than {MOST_NODES:,} values, those of its aliases counted")
