"""Published results of the papers; `load()` returns all rows in one table (docs/fronts.md)."""

from paredown.published.table import load

__all__ = ["load"]
