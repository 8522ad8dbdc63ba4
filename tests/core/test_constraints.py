"""Constraints in types: the same checks and words whether values come from a configuration or from Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import pytest

from paredown.core.constraints import (
    Checked,
    Count,
    Energy,
    Fraction,
    Milestones,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    Share,
    check_arguments,
    checked,
    make,
)
from paredown.core.errors import UserError


@dataclass(frozen=True)
class Inner(Checked):
    section: ClassVar[str] = "method.search"

    epochs: Count = 1
    images: Count | None = None


@dataclass(frozen=True)
class Outer(Checked):
    section: ClassVar[str] = "method"

    form: Literal["channel", "spatial"] = "spatial"
    decay: NonNegative = 0.1
    rate: Positive | None = None
    momentum: Fraction = 0.9
    part: OpenFraction = 0.5
    share: Share = 1.0
    energy: Energy | Literal["auto"] = "auto"
    start: NonNegativeInt = 0
    milestones: Milestones = (0.5,)
    flag: bool = False
    ranks: Mapping[str, Count] = field(default_factory=dict)
    search: Inner = field(default_factory=Inner)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"decay": -1}, "method.decay=-1 (at least 0)"),
    ({"decay": float("nan")}, "method.decay=nan (a finite number, at least 0)"),
    ({"decay": "much"}, "method.decay='much' (a number, at least 0)"),
    ({"decay": True}, "method.decay=true (a number, at least 0)"),
    ({"rate": 0}, "method.rate=0 (above 0, or null)"),
    ({"momentum": 1}, "method.momentum=1 (in [0, 1))"),
    ({"part": 0}, "method.part=0 (in (0, 1))"),
    ({"share": 0}, "method.share=0 (in (0, 1])"),
    ({"energy": 1}, "method.energy=1 (in [0, 1): the fraction of squared singular values removed, or auto)"),
    ({"start": -1}, "method.start=-1 (at least 0)"),
    ({"start": 1.5}, "method.start=1.5 (a whole number, at least 0)"),
    ({"milestones": (0.7, 0.5)}, "method.milestones=(0.7, 0.5) (fractions of the epochs, rising)"),
    ({"milestones": (0.5, 1.0)}, "method.milestones=(0.5, 1.0) (fractions of the epochs, rising)"),
    ({"flag": "maybe"}, "method.flag='maybe' (true or false)"),
    ({"form": "chanel"}, "method.form='chanel': did you mean channel? known: channel, spatial"),
    ({"ranks": {"conv": 0}}, "method.ranks.conv=0 (at least 1)"),
    ({"decay": -1, "form": "x"}, "method.form='x': known: channel, spatial; method.decay=-1 (at least 0)"),
]


@pytest.mark.parametrize(("values", "line"), WRONG, ids=[line for _, line in WRONG])
def test_a_configuration_and_python_get_the_same_line(values: dict[str, Any], line: str) -> None:
    for construct in (lambda: Outer(**values), lambda: make(Outer, values, "method")):
        with pytest.raises(UserError) as error:
            construct()
        assert str(error.value) == line


def test_the_borders_that_belong_are_taken_and_converted() -> None:
    made = Outer(decay=0, momentum=0, share=1, energy=0, milestones=[0.2], start="3")  # type: ignore[arg-type]
    assert made == make(
        Outer, {"decay": 0, "momentum": 0, "share": 1, "energy": 0, "milestones": [0.2], "start": 3}, ""
    )
    assert (type(made.decay), made.milestones, made.start) == (float, (0.2,), 3)
    with pytest.raises(UserError, match="decay=-1"):
        replace(made, decay=-1)


def test_nested_values_are_named_by_their_path() -> None:
    with pytest.raises(UserError) as error:
        make(Outer, {"decay": -1, "search": {"epochs": 0, "images": 0}}, "method")
    assert str(error.value).split("; ") == [
        "method.decay=-1 (at least 0)",
        "method.search.epochs=0 (at least 1)",
        "method.search.images=0 (at least 1, or null)",
    ]
    with pytest.raises(UserError, match=r"^method\.search\.epochs=0 \(at least 1\)$"):
        Inner(epochs=0)


def test_unknown_and_missing_fields() -> None:
    @dataclass(frozen=True)
    class Needy(Checked):
        size: int

    with pytest.raises(UserError, match=r"^recipe\.size is not set$"):
        make(Needy, {}, "recipe")
    with pytest.raises(UserError, match=r"^method\.decai is no setting of Outer: did you mean decay"):
        make(Outer, {"decai": 1}, "method")
    with pytest.raises(UserError, match=r"^method\.search\.epoch is no setting of Inner: did you mean epochs"):
        make(Outer, {"search": {"epoch": 1}}, "method")


def build(
    depth: Count, block: Literal["basic", "wide"] = "basic", *, extra: Any = None, **more: Any
) -> tuple[Any, ...]:
    return depth, block, extra, more


def test_arguments_of_a_function_are_checked_by_its_annotations() -> None:
    assert build(**check_arguments(build, {"depth": 20, "other": 1}, "model")) == (20, "basic", None, {"other": 1})
    with pytest.raises(UserError) as error:
        check_arguments(build, {"depth": True, "block": "base"}, "model")
    assert str(error.value) == (
        "model.depth=true (a whole number, at least 1); model.block='base': did you mean basic? known: basic, wide"
    )
    with pytest.raises(UserError, match=r"model\.depth=0"):
        checked("model")(build)(depth=0)


def test_what_only_defines_settings_does_not_import_pydantic() -> None:
    modules = "paredown.core.recipe, paredown.sweep.spec, paredown.bench.request, paredown.cli.report"
    code = f"import sys, {modules}; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
