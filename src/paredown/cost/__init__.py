"""Cost of a network: `count` its multiply-adds and parameters, `compare` them with the dense network's."""

from paredown.cost.macs import Cost, CostError, LayerCost, compare, count

__all__ = ["Cost", "CostError", "LayerCost", "compare", "count"]
