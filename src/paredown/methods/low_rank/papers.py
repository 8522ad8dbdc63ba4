"""The papers' names of factorisations, as hyperparameters take them."""

from __future__ import annotations

from typing import Literal

from paredown.layers.factorised.forms import Factorisation

Form = Literal["channel", "spatial"]  # SVD training, TRP
FORMS: dict[Form, Factorisation] = {"channel": "in_group", "spatial": "vertical_first"}
Family = Literal["spatial", "in_group"]  # LR-S2 as SVD-NAS reproduces it, in one group
FAMILIES: dict[Family, Factorisation] = {"spatial": "horizontal_first", "in_group": "in_group"}
