"""The request of a report, as typed after src/report.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from paredown.core import requests
from paredown.core.constraints import Checked
from paredown.core.errors import UserError
from paredown.core.requests import Folder, Listed


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

    @property
    def title(self) -> str:
        """The title of the report, and the name of its folder."""
        parts = [
            self.sweep,
            self.dataset,
            self.model,
            f"{len(self.runs)}-runs-{self.runs[0][:8]}" if self.runs else None,
        ]
        return "-".join(part for part in parts if part)

    @property
    def place(self) -> Path:
        """The folder of the report's files."""
        return self.folder or self.output / "reports" / self.title


def parse(words: Sequence[str]) -> Request:
    """Return the request of `words`, each key=value. Raise UserError for whatever is wrong with them."""
    return requests.parse(Request, words)
