"""The comparison of the input that usage.py makes of image files with the evaluation's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from paredown.data.images import ImageData
from paredown.export.usage import prepared

STRETCHES = ((1.0, 1.0), (1.0, 1.7), (2.3, 1.0), (0.6, 1.1))  # heights and widths, of those that evaluation scales to


def difference(data: ImageData, facts: Mapping[str, Any]) -> float:
    """Return the largest difference between values of the two inputs, over images of noise of several shapes."""
    random = np.random.RandomState(0)
    found = 0.0
    with TemporaryDirectory() as folder:
        for number, (tall, wide) in enumerate(STRETCHES):
            height, width = (max(1, round(side * by)) for side, by in zip(data.scaled, (tall, wide), strict=True))
            path = Path(folder) / f"{number}.png"
            Image.fromarray(random.randint(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
            theirs = torch.from_numpy(prepared(str(path), dict(facts)))
            found = max(found, float((theirs - data.evaluated(path)).abs().max()))
    return found
