"""Narrower networks inside a wide one: of each group of channels the first, the others zeroed behind batch norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.network import Network
from paredown.graph.channels import Group
from paredown.graph.sites import batch_norm_behind
from paredown.graph.trace import NORMS_IN_FIT, trace
from paredown.surgery.width_budget import Scope, Widths, scoped


def maskable_groups(network: Network, scope: Scope | Sequence[str] = "all") -> tuple[Group, ...]:
    """Find the groups of `scope` whose channels come from layers with a batch norm behind each: a masked batch norm
    then is a narrow network, in training too. What squeeze-and-excitation and hidden linear layers write is not."""
    graph = trace(network.module)
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    bare = {str(node.target) for node in nodes if batch_norm_behind(node, graph) is None}
    weighted = {name for name, layer in network.module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return tuple(
        group
        for group in scoped(network, scope)
        if not any(m.axis == "out" and m.layer in bare & weighted for m in group.members)
    )


def steps_of(groups: Iterable[Group], number: int) -> dict[str, int]:
    """Return by how many channels each group's width changes, for `number` steps to the full width."""
    return {group.name: max(1, group.size // number) for group in groups}


@contextmanager
def narrower(module: nn.Module, groups: Iterable[Group], widths: Widths) -> Iterator[None]:
    """Let `module` compute, while the context lasts, what the network with the first `widths` channels of each of
    `groups` does. In training mode batch norms use the batch's statistics, and keep their running ones as they are."""
    masks = _masks(module, groups, widths)
    tracked = [norm for norm in module.modules() if isinstance(norm, NORMS_IN_FIT) and norm.track_running_stats]
    with ExitStack() as stack:
        for norm in tracked:
            norm.track_running_stats = not norm.training
            stack.callback(setattr, norm, "track_running_stats", True)
        for name, mask in masks.items():
            stack.callback(module.get_submodule(name).register_forward_hook(_Zeroing(mask)).remove)
        yield


def _masks(module: nn.Module, groups: Iterable[Group], widths: Widths) -> dict[str, Tensor]:
    """Return which channels of each batch norm stay, (n,), as 0 and 1. Raise ValueError for a group of fewer channels
    that has no batch norm."""
    found: dict[str, Tensor] = {}
    for group in groups:
        if widths.get(group.name, group.size) == group.size:
            continue
        layers = [(member, module.get_submodule(member.layer)) for member in group.members]
        norms = [(member, layer) for member, layer in layers if isinstance(layer, NORMS_IN_FIT)]
        if not norms:
            raise ValueError(f"no batch norm masks the channels at {group.name}")
        for member, norm in norms:
            like = next((t for t in (norm.weight, norm.running_mean) if t is not None), torch.empty(0))
            mask = found.setdefault(member.layer, torch.ones(norm.num_features, device=like.device))
            mask[member.table[widths[group.name] :].flatten().to(mask.device)] = 0.0
    return found


@dataclass(frozen=True)
class _Zeroing:
    mask: Tensor

    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * self.mask.to(output.dtype).view(-1, *(1,) * (output.dim() - 2))


def prefixes(groups: Iterable[Group], widths: Widths) -> dict[str, list[int]]:
    """Return the channels of each group that are not among its first `widths`."""
    return {group.name: list(range(widths[group.name], group.size)) for group in groups}


def drawn_widths(
    groups: Iterable[Group], least: float, step: Mapping[str, int], generator: torch.Generator
) -> dict[str, int]:
    """Draw a width of each group, every number of steps from the fraction `least` to the full width equally likely."""
    found = {}
    for group in groups:
        choices = choices_of(group, least, step[group.name])
        found[group.name] = choices[int(torch.randint(len(choices), (), generator=generator))]
    return found


def choices_of(group: Group, least: float, step: int) -> list[int]:
    """Return the widths of a group, narrowest first: the full one less a number of steps, at least the fraction
    `least` and one channel."""
    fewest = max(1, round(least * group.size))
    return list(range(group.size, fewest - 1, -step))[::-1]
