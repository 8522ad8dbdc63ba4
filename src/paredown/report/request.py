"""The request of a report, as typed after src/report.py."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from paredown.core import requests
from paredown.core.constraints import Checked
from paredown.core.errors import UserError
from paredown.core.requests import Folder, Listed

DIGITS = 8  # of the digest of several runs


@dataclass(frozen=True)
class Request(Checked):
    """Which runs (`sweep`, or `dataset` and `model` over everything recorded, or run ids), the two metrics to draw, a
    `budget` (as 'speed_up>=3'), whether only `certified` points count, and the folders of records and report."""

    sweep: str | None = None
    dataset: str | None = None
    model: str | None = None
    runs: Annotated[tuple[str, ...], Listed] = ()
    x: str = "cost/macs"
    y: str = "final/top1"
    budget: str | None = None
    certified: bool = False
    output: Folder = Path("outputs")
    uri: str | None = field(default=None, metadata={"key": "tracking.uri"})
    folder: Folder | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.sweep or self.dataset or self.model or self.runs):
            raise UserError("a report on what? give sweep=NAME, dataset=NAME (with model=NAME), or runs=[ID,ID,...]")
        for name in ("sweep", "dataset", "model"):
            if {"'", '"', "`"} & set(getattr(self, name) or ""):
                raise UserError(f"{name}={getattr(self, name)}: no name has a quote in it")
        if self.budget is not None and not self.budget.strip(", "):
            raise UserError(f"budget={self.budget} bounds nothing: write METRIC>=NUMBER, or leave budget out")

    @property
    def title(self) -> str:
        """The title of the report, and the name of its folder."""
        parts = [self.sweep, self.dataset, self.model, self._runs]
        return "-".join(part for part in parts if part)

    @property
    def _runs(self) -> str | None:
        """Name `runs` by the first and, of several, a digest of all: other runs beside the first are another report."""
        if not self.runs:
            return None
        digest = hashlib.sha256(",".join(sorted(self.runs)).encode()).hexdigest()[:DIGITS]
        name = f"{len(self.runs)}-runs-{min(self.runs)[:8]}"
        return f"{name}-{digest}" if len(self.runs) > 1 else name

    @property
    def place(self) -> Path:
        """The folder of the report's files."""
        return self.folder or self.output / "reports" / self.title


def parse(words: Sequence[str]) -> Request:
    """Return the request of `words`, each key=value. Raise UserError for whatever is wrong with them."""
    return requests.parse(Request, words)
