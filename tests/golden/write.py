"""Writes pinned keys and losses anew, once it is clear why they changed."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("core", "run", "report")]


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    import test_golden_losses as losses
    import test_grouping as grouping
    import test_keys as keys

    before = grouping.known()  # what files already had stays: a parameter that they gain is not of older runs
    parameters = {file: before.get(file, sorted(found)) for file, found in grouping.parameters().items()}
    write(grouping.PARAMETERS, parameters)
    with tempfile.TemporaryDirectory() as folder:
        write(keys.DEFAULTS, keys.defaults())
        write(keys.GOLDEN, {name: keys.keys_of(Path(folder), name) for name in keys.METHODS})
        write(losses.GOLDEN, {name: losses.losses(name, Path(folder) / name) for name in losses.METHODS})
