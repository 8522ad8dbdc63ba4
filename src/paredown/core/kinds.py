"""The table of layer kinds: what a blueprint may name, where it is built, and the version of what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from paredown.core.plugins import layer_kinds


@dataclass(frozen=True)
class LayerKind:
    """`module` has `build(dense, **arguments)`; raise `version` when equal arguments come to mean another layer."""

    module: str
    version: int = 1


class Kinds(Mapping[str, LayerKind]):
    """The layer kinds by name: `own`, and those of plugins, which are looked for when another name is asked for."""

    def __init__(self, own: Mapping[str, LayerKind]) -> None:
        self.own = own

    def __getitem__(self, name: str) -> LayerKind:
        return self.own[name] if name in self.own else LayerKind(*layer_kinds()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(layer_kinds() | dict.fromkeys(self.own))

    def __len__(self) -> int:
        return sum(1 for _ in self)


OWN = {
    "branches": LayerKind("paredown.layers.factorised.branches"),
    "factored": LayerKind("paredown.layers.factored"),
    "interspace": LayerKind("paredown.layers.interspace"),
    "low_rank": LayerKind("paredown.layers.factorised.low_rank"),
    "masked": LayerKind("paredown.layers.masked"),
    "mixed_op": LayerKind("paredown.layers.mixed_op"),
    "narrow": LayerKind("paredown.layers.narrow"),
    "pair": LayerKind("paredown.layers.factorised.pair"),
    "sparse": LayerKind("paredown.layers.sparse"),
    "ssc": LayerKind("paredown.layers.ssc.layer"),
}
KINDS = Kinds(OWN)
