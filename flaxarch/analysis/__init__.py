"""What a network costs and what it sees, found without running it."""

from flaxarch.analysis.cost import Cost, LayerCost, cost

__all__ = ["Cost", "LayerCost", "cost"]
