"""SVD-NAS's design space (arXiv 2208.10404): the candidate designs of one branch of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from paredown.core.errors import UserError
from paredown.layers.factorised.forms import Factorisation, full_rank, group_counts, kernel_shape
from paredown.layers.geometry import output_size
from paredown.surgery.rank_budget import rank_cost

SPACE: tuple[Factorisation, ...] = ("horizontal_first", "in_group", "out_group")
ROUNDING = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A design of one branch and its MACs for one image; factorisation and rank None: the dense layer."""

    factorisation: Factorisation | None
    groups: int
    rank: int | None
    macs: int

    def point(self) -> list[object]:
        """Return it as a point of a mixed operation."""
        return [self.factorisation, self.groups, self.rank, self.macs]


def candidates(
    conv: nn.Conv2d,
    input_size: int | tuple[int, int],
    gamma: tuple[float, float],
    step: float = 0.05,
    *,
    include_end: bool = True,
    merge: bool = False,
) -> list[Candidate]:
    """Return the designs of one branch of `conv` for an input of `input_size` (height, width; or both): for each
    factorisation and number of groups the highest rank within each fraction of the MACs on a grid over `gamma`; the
    dense layer last.

    The released code leaves the end of the grid out for ResNet-18 (`include_end=False`). `merge` drops designs that
    differ only in name: in one group all factorisations of a 1 x 1 convolution of stride 1 are the same. Raise
    UserError for a gamma outside (0, 1).
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    shape = (conv.in_channels, *size)
    whole = conv.weight.numel() * math.prod(output_size(conv, *size))
    fractions = grid(gamma, step, include_end)
    return priced(conv, whole, lambda kind, groups: rank_cost(conv, kind, groups, shape), fractions, merge)


def priced(
    conv: nn.Conv2d,
    whole: int,
    per_rank: Callable[[Factorisation, int], int],
    fractions: Sequence[float],
    merge: bool = False,
) -> list[Candidate]:
    """Return the `candidates` within `fractions` of `whole`, the MACs of `conv`; each rank of a factorisation in some
    number of groups costs `per_rank` of them."""
    found = []
    for factorisation, groups in groupings(conv, merge) if whole else ():  # a layer that is never called costs nothing
        each, most = per_rank(factorisation, groups), full_rank(kernel_shape(conv), factorisation, groups)
        ranks = {min(most, math.floor(fraction * whole / each + ROUNDING)) for fraction in fractions} - {0}
        found += [Candidate(factorisation, groups, rank, rank * each) for rank in sorted(ranks)]
    return [*found, Candidate(None, 1, None, whole)]


def grid(gamma: tuple[float, float], step: float, include_end: bool = True, branch: str = "") -> list[float]:
    """Return the fractions from gamma[0] to gamma[1] in steps of `step`, at least one. Raise UserError, which names the
    settings of `branch`, unless 0 < gamma[0] <= gamma[1] < 1 and step > 0, and where leaving the end out leaves
    none."""
    low, high = gamma
    given = f"{branch}gamma={low:g} to {high:g}"
    if not 0 < low <= high < 1:
        raise UserError(f"{given} is no range within (0, 1): it holds fractions of a layer's MACs")
    if not step > 0:
        raise UserError(f"{branch}step={step:g} is not above 0")
    steps = math.floor((high - low) / step + ROUNDING)
    fractions = [low + index * step for index in range(steps + 1)]
    found = [fraction for fraction in fractions if include_end or fraction < high - ROUNDING]
    if not found:
        raise UserError(f"{given} without its end holds no fraction: give a larger end")
    return found


def groupings(conv: nn.Conv2d, merge: bool = False) -> list[tuple[Factorisation, int]]:
    """Return every factorisation with every number of groups that `conv` allows; `merge` as in `candidates`."""
    shape = kernel_shape(conv)
    found = [(factorisation, groups) for factorisation in SPACE for groups in group_counts(shape, factorisation)]
    same = conv.kernel_size == (1, 1) and conv.stride == (1, 1)
    return [pair for pair in found if pair[0] == SPACE[0] or pair[1] > 1] if merge and same else found
