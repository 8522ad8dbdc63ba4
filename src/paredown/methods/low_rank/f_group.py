"""F-Group: filter group approximation at the ranks and groups that its authors picked by hand for ResNet-18 (Peng et
al., ECCV 2018), as SVD-NAS reproduces it (supplement, S2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Len
from torch import nn

from paredown.core.constraints import Rule, Share
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.target import Target
from paredown.layers.factorised.forms import Branch
from paredown.methods.families import DecomposeTrained, compress
from paredown.surgery.factorise import convolutions

Shares = Annotated[tuple[Share, ...], Len(min_length=1), Rule("fractions of a stage's filters, in (0, 1]")]


@dataclass(frozen=True)
class FGroup(DecomposeTrained):
    """`shares` are the ranks of the stages, each a fraction of the stage's filters; later stages stay dense. A stage
    consists of the layers with the same number of filters. The number of groups follows: as many as keep the number of
    channels between the two layers that of the input."""

    shares: Shares = (0.125, 0.25, 0.5)

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the fixed design. Raise UserError for a target, and where a rank is not whole or does not divide the
        input channels."""
        if target:
            raise UserError(f"method f_group has one design, picked by hand: it cannot reach {target}")
        designs = design(convolutions(network.module, "kxk"), self.shares)
        return Edit("decompose", decompose, {"designs": {name: list(pair) for name, pair in designs.items()}})


def design(convs: dict[str, nn.Conv2d], shares: Sequence[float]) -> dict[str, tuple[int, int]]:
    """Return (groups, rank) of each convolution of the first stages. Raise UserError as `FGroup.decomposition` does."""
    stages = list(dict.fromkeys(conv.out_channels for conv in convs.values()))
    ranks = dict(zip(stages, (share * width for share, width in zip(shares, stages, strict=False)), strict=False))
    found = {}
    for name, conv in convs.items():
        rank = ranks.get(conv.out_channels)
        if rank is not None and (rank % 1 or conv.in_channels % rank):
            raise UserError(
                f"f_group: {name} has {conv.in_channels} input channels, which are no whole multiple of rank {rank:g}, "
                f"its share of {conv.out_channels} filters: set method.shares"
            )
        if rank is not None:
            found[name] = (conv.in_channels // int(rank), int(rank))
    return found


@identity("f_group/decompose", kinds=["pair"])
def decompose(network: Network, context: Context, designs: dict[str, Sequence[int]]) -> dict[str, Any]:
    """Decompose each layer of `designs`, given as (groups, rank), in groups of its input channels. Return the notes of
    `compress`."""
    branches = {name: [Branch("in_group", groups, rank)] for name, (groups, rank) in designs.items()}
    return compress(network, context, branches)
