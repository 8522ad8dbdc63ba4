"""What a network costs: `count` its multiply-adds and parameters, `compare` them with the dense network's."""

from paredown.cost.counting import Cost, CostError, LayerCost, compare, count

__all__ = ["Cost", "CostError", "LayerCost", "compare", "count"]
