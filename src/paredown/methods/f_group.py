"""F-Group: filter group approximation at the ranks and groups that its authors picked by hand for ResNet-18 (Peng et
al., ECCV 2018), as SVD-NAS reproduces it (supplement, S2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from paredown.errors import UserError
from paredown.methods._post_training import PostTraining, compress
from paredown.plan import Context, Edit, Network, Target
from paredown.surgery.design_space import Branch, targeted


@dataclass(frozen=True)
class FGroup(PostTraining):
    """`shares` are the ranks of the stages, each a fraction of the stage's filters; later stages stay dense. A stage is
    what has the same number of filters. Groups follow: as many as keep the input channels between the two layers."""

    shares: tuple[float, ...] = (0.125, 0.25, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise UserError(f"method.shares={list(self.shares)} are not fractions of a stage's filters, in (0, 1]")

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """The fixed design. UserError for a target, and where a rank is not whole or divides no input channels."""
        if target:
            raise UserError(f"method f_group has one design, picked by hand: it cannot reach {target}")
        designs = design(targeted(network.module, "kxk"), self.shares)
        return Edit("decompose", decompose, {"designs": {name: list(pair) for name, pair in designs.items()}})


def design(convs: dict[str, nn.Conv2d], shares: Sequence[float]) -> dict[str, tuple[int, int]]:
    """(groups, rank) of each convolution of the first stages. Raises UserError as `FGroup.decomposition` does."""
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


def decompose(network: Network, context: Context, designs: dict[str, Sequence[int]]) -> dict[str, object]:
    """Decompose each layer of `designs`, given as (groups, rank), in groups of its input channels."""
    branches = {name: [Branch("in_group", groups, rank)] for name, (groups, rank) in designs.items()}
    return compress(network, context, branches)
