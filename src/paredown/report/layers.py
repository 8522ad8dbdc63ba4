"""The layers of many settings, for a comparison of two of them side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.core.errors import UserError, printable
from paredown.core.files import read_json
from paredown.core.layout import LAYERS

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = 40  # settings whose layers are read: a request or two each
DAMAGED = "not compared"


@dataclass(frozen=True)
class Layer:
    """A layer as a run records it: MACs and weights before (dense) and after, and how it was rewritten."""

    layer: str
    kind: str
    dense_macs: float
    macs: float
    dense_weights: float
    weights: float
    blueprint: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """What is shown: printable names, and the numbers."""
        kind = printable(str(self.blueprint.get("kind", self.kind)))
        shown = {"layer": printable(self.layer), "kind": kind}
        return shown | {name: getattr(self, name) for name in ("dense_macs", "macs", "dense_weights", "weights")}


def artifact(client: MlflowClient, run: str, name: str, kind: Any, remedy: str = DAMAGED) -> Any:
    """Return the JSON artifact `name` of a run as `kind`, None if it has none. Raise UserError where it is damaged."""
    if name not in {found.path for found in client.list_artifacts(run)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return read_json(Path(client.download_artifacts(run, name, folder)), kind, remedy)


def read_layers(client: MlflowClient, runs: Mapping[str, str], missing: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the layers of the first COMPARED of `runs` (run id by setting) that recorded them; note in `missing` those
    that are damaged, and how many were not asked for."""
    found = {}
    for setting, run in [*runs.items()][:COMPARED]:
        try:
            rows: list[Layer] | None = artifact(client, run, LAYERS, list[Layer])
        except UserError as error:
            missing.append(f"the layers of {setting}: {error}")
            continue
        if rows:
            found[setting] = [row.row for row in rows]
    if len(runs) > COMPARED:
        missing.append(f"settings whose layers are not compared, only those of {COMPARED} are: {len(runs) - COMPARED}")
    return found
