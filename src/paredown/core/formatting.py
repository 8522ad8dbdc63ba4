"""Number formats shared by the tables, figures and pages of every room."""

from __future__ import annotations

import math

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SI_FROM = 1000  # magnitude from which `number` uses SI prefixes


def si(value: float) -> str:
    """Return `value` with three significant digits, from a thousand on with an SI prefix: 0.25, 320k, 1.5M."""
    rounded = abs(float(f"{value:.3g}"))  # chooses the prefix, so that 999,999 is 1M and not 1e+03k
    for size, prefix in PREFIXES:
        if rounded >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def number(value: float) -> str:
    """Return `value` with an SI prefix from a thousand on, with two decimals below it and three below ten."""
    return si(value) if abs(value) >= SI_FROM else fixed(value, _decimals(value))


def fixed(value: float | None, decimals: int = 2) -> str:
    """Return `value` with `decimals` decimals, an empty cell for None."""
    return "" if value is None else f"{value:.{decimals}f}"


def grouped(value: float) -> str:
    """Return `value` as a whole number with thousands separators: 40,813,184."""
    return f"{value:,.0f}"


def counted(count: int, noun: str) -> str:
    """Return `count` and `noun`, which takes an s unless it is one: 1 run, 12 runs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format `seconds` as `40 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def plus_minus(mean: float, half_width: float) -> str:
    """Return `mean` ± `half_width` in the format of `mean`, or `mean` alone where the half width is NaN or 0."""
    if math.isnan(half_width) or half_width == 0:
        return number(mean)
    if abs(mean) >= SI_FROM:
        return f"{si(mean)} ± {si(half_width)}"
    return f"{number(mean)} ± {fixed(half_width, _decimals(mean))}"


def _decimals(value: float) -> int:
    return 3 if abs(value) < 10 else 2
