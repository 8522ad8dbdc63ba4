"""The names of the metrics that every run records: what a sweep may look at is known before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from paredown.core.errors import nearest

Families = Mapping[str, tuple[str, ...]]
TOPS = ("top1", "top5")
# Written out: where they are computed imports torch and pandas, for seconds. tests/sweep/test_metric_names.py compares.
RESULT: Families = {
    "final": ("loss", *TOPS),
    "best": TOPS,
    "selected": ("top1",),
    "cost": (
        *("macs", "params", "weights", "bytes", "dense_macs", "dense_params", "dense_bytes"),
        *("speed_up", "compression", "sparsity"),
        *("speed_up_conv", "speed_up_sfp", "speed_up_cnn_fcf", "speed_up_thop"),
    ),
    "latency": ("ms", "dense_ms", "speed_up", "speed_up_low", "speed_up_high", "batch", "threads", "turns"),
    "price": ("images", "other_images", "compression_images", "epochs", "seconds", "macs"),
}
EPOCH: Families = {"train": ("loss", *TOPS, "objective"), "val": ("loss", *TOPS), "test": ("loss", *TOPS)}


def no_result(name: str) -> str | None:
    """Return why no finished run has the metric `name`, None where one may: methods and plugins add their own."""
    return _missing(name, RESULT, EPOCH, "recorded for each epoch, not of a finished run")


def no_epoch(name: str) -> str | None:
    """Return why no epoch of a training has the metric `name`, None where one may: hooks add their own."""
    return _missing(name, EPOCH, RESULT, "of a finished run, not recorded for each epoch")


def _missing(name: str, own: Families, others: Families, elsewhere: str) -> str | None:
    family, _, rest = name.partition("/")
    known = [f"{prefix}/{last}" for prefix, names in own.items() for last in names]
    if family in others:
        return f"{elsewhere}: {nearest(name, known)}"
    return f"no such metric: {nearest(name, known)}" if family in own and rest not in own[family] else None
