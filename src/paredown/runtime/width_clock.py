"""How much faster a network with fewer channels is on this machine."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence

import torch

from paredown.core.distributed import measured_by_rank_zero
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target, Timing
from paredown.cost.latency import in_turns, use_threads
from paredown.graph.channels import Group
from paredown.runtime.rivals import DENSE, DEPLOYED, Candidate, candidates
from paredown.surgery.narrowing import positions, remove
from paredown.surgery.prefixes import prefixes
from paredown.surgery.width_budget import Widths

SECONDS = 1.0  # of a measurement
_reached: dict[str, float] = {}  # by what was measured, in this process


class WidthClock:
    """Times `network` with fewer channels in `groups`, in turns with the network as it is: both deployed, plain layers
    in channels-last, as a run's latency is measured. Which channels stay makes no difference to the time."""

    def __init__(self, network: Network, groups: Sequence[Group], timing: Timing) -> None:
        self.network, self.groups, self.timing = network, groups, timing
        self._dense = self._candidate(DENSE, network)

    def speed_up(self, widths: Widths) -> float:
        """Return the median over turns of the time of the network as it is over that with `widths`."""
        module = copy.deepcopy(self.network.module)
        small = Network(module, self.network.architecture, self.network.input_shape, dict(self.network.blueprint))
        remove(small, positions(self.groups, prefixes(self.groups, widths)))
        pairs = [(one.module, one.images) for one in (self._candidate(DEPLOYED, small), self._dense)]
        with use_threads(self.timing.threads):
            turns = in_turns(pairs, SECONDS)
        return statistics.median(dense / narrow for narrow, dense in turns)

    def _candidate(self, name: str, network: Network) -> Candidate:
        device = torch.device(self.timing.device)
        return candidates(name, network, self.timing.batch, device, "fp32", None, ["NHWC"])[0]


def fast_enough(clock: WidthClock, target: Target, widths: Widths, fewest: Widths) -> bool:
    """Return whether rank 0 finds the network with `widths` as fast as `target` asks. With the `fewest` channels, which
    were so when the plan was made, the target's tolerance is that of another measurement."""
    allowed = target.tolerance if dict(widths) == dict(fewest) else 0.0
    return measured_by_rank_zero(lambda: clock.speed_up(widths)) >= target.value - allowed


def require_latency(network: Network, groups: Sequence[Group], target: Target, fewest: Widths) -> None:
    """Raise UserError where even with the widths `fewest` the network is not as fast as `target` asks on this machine.
    Measured once in a process, on rank 0."""
    assert target.timing is not None
    key = repr((network.architecture, network.input_shape, fewest, target.timing))
    if key not in _reached:
        clock = WidthClock(network, groups, target.timing)
        _reached[key] = measured_by_rank_zero(lambda: clock.speed_up(fewest))
    if _reached[key] < target.value:
        threads = f" on {target.timing.threads} threads" if target.timing.threads else ""
        raise UserError(
            f"{target} is out of reach on this machine: the fewest channels give {_reached[key]:.3g}x "
            f"for {target.timing.batch} images{threads}"
        )
