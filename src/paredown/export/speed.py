"""How fast an exported ONNX file is under onnxruntime, beside the dense network's."""

from __future__ import annotations

from pathlib import Path

import torch

from paredown.cost.latency import Latency, LatencySettings, measure
from paredown.export.onnx_file import runner
from paredown.training.machine import usable_cores

THREADS = (1, 2)


def speeds(path: Path, dense: Path, shape: tuple[int, ...], seconds: float) -> list[Latency]:
    """Time the ONNX files `path` and `dense` in turns on one image of `shape` (C, H, W), for about `seconds` on each of
    THREADS, as far as this process has as many cores."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for threads in THREADS:
        if threads <= usable_cores():
            ours, theirs = (runner(one, threads) for one in (path, dense))
            settings = LatencySettings(batch=1, threads=threads, seconds=seconds)
            found.append(measure((ours, image), (theirs, image), settings))
    return found
