"""What a compression did, as data and as a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paredown.cost import Cost


@dataclass(frozen=True)
class Report:
    """What `compress` did. `cost` and `dense` are counted on the deployed networks; `metrics` has `cost/...`, and with
    test images `dense/top1` and `final/top1` (percent, fp32); `changed` maps each layer that was replaced to its kind,
    `left` names conv and linear layers that stayed; `history` holds the figures of each epoch of the last training;
    `notes` say in words what somebody should know."""

    method: str
    target: str
    cost: Cost
    dense: Cost
    metrics: Mapping[str, float]
    stages: tuple[str, ...]
    changed: Mapping[str, str]
    left: tuple[str, ...]
    history: tuple[Mapping[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    key: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict, repr=False)
    blueprint: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    input_shape: tuple[int, int, int] = (3, 224, 224)

    def __str__(self) -> str:
        m = self.metrics
        lines = [
            f"{self.method} {self.target}".strip() + f": {', '.join(self.stages)}",
            f"MACs        {self.dense.macs:,} -> {self.cost.macs:,} ({m['cost/speed_up']:.2f}x fewer)",
            f"parameters  {self.dense.params:,} -> {self.cost.params:,} ({m['cost/compression']:.2f}x fewer)",
            f"sparsity    {m['cost/sparsity']:.2%}",
        ]
        if "final/top1" in m:
            lines.append(f"top-1       {m['dense/top1']:.2f} % -> {m['final/top1']:.2f} %")
        lines.append(f"layers      {len(self.changed)} replaced, {len(self.left)} left as they were")
        return "\n".join([*lines, *self.notes])
