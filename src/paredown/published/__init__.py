"""The papers' tables: `load()` gives every row under one vocabulary (docs/fronts.md)."""

from paredown.published.table import load

__all__ = ["load"]
