"""What is asked of a report, as typed after src/report.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from paredown.command import settings, several
from paredown.errors import UserError

OTHER_NAMES = {"tracking.uri": "uri"}  # as src/run.py calls it


@dataclass(frozen=True)
class Request:
    """Which runs (`sweep`, or `dataset` and `model` over everything recorded, or run ids), the two metrics to draw, a
    `budget` (as 'speed_up>=3'), whether only `certified` points count, and where the records and the report lie."""

    sweep: str | None = None
    dataset: str | None = None
    model: str | None = None
    runs: tuple[str, ...] = ()
    x: str = "cost/macs"
    y: str = "final/top1"
    budget: str | None = None
    certified: bool = False
    output: str = "outputs"
    uri: str | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if not (self.sweep or self.dataset or self.model or self.runs):
            raise UserError("a report on what? give sweep=NAME, dataset=NAME (with model=NAME), or runs=[ID,ID,...]")
        for name in ("sweep", "dataset", "model"):
            if {"'", '"', "`"} & set(getattr(self, name) or ""):
                raise UserError(f"{name}={getattr(self, name)}: no name has a quote in it")

    @property
    def title(self) -> str:
        """What it is on, for people and for the report's folder."""
        parts = [
            self.sweep,
            self.dataset,
            self.model,
            f"{len(self.runs)}-runs-{self.runs[0][:8]}" if self.runs else None,
        ]
        return "-".join(part for part in parts if part)

    @property
    def place(self) -> Path:
        """Where the report's files go."""
        return Path(self.folder or Path(self.output) / "reports" / self.title).expanduser()


def parse(words: Sequence[str]) -> Request:
    """The request of `words`, each key=value. UserError for anything else."""
    known = [field.name for field in fields(Request) if field.name != "uri"] + list(OTHER_NAMES)
    values = {OTHER_NAMES.get(key, key): value for key, value in settings(words, known).items()}
    certified = values.pop("certified", "false")
    if certified not in ("true", "false"):
        raise UserError(f"certified={certified} is neither true (certified points alone) nor false (all)")
    runs = tuple(several(values.pop("runs", "")))
    return Request(runs=runs, certified=certified == "true", **values)
