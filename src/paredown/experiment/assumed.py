"""Data sets for a plan: opened where they are here, else of their known sizes; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paredown.data.images import ImageData, MissingImages
from paredown.data.known import contents_of, known_of
from paredown.experiment.prepare import open_data


class Assuming:
    """An opener of data sets. `assumed` says, line by line, what was taken for granted."""

    def __init__(self) -> None:
        self.assumed: dict[str, None] = {}

    def __call__(self, config: Mapping[str, Any]) -> ImageData:
        """Open the data set of `config`. Raise UserError where it is not here and its size is not known."""
        data = open_data({**config, **({"download": False} if "download" in config else {})})
        try:
            data.prepare()
        except MissingImages:
            if (known := known_of(config)) is None:
                raise
            data.take(contents_of(data.name, known))
            planned = f"planned for its {known.words()}; what is stored was not looked for"
            self.assumed[f"{data.name} is not in {data.root}: {planned}"] = None
        return data
