"""Pareto fronts of accuracy against cost: dominance, hypervolume, intervals over seeds (docs/fronts.md)."""

from paredown.frontier.dominance import hypervolume, knee, pareto

__all__ = ["hypervolume", "knee", "pareto"]
