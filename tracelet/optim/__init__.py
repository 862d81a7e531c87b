"""Population optimizers for PyTorch: bacterial foraging and its kin."""

from tracelet.optim.adaptive_bfo import AdaptiveBFO
from tracelet.optim.bfo import BFO
from tracelet.optim.hybrid_bfo import HybridBFO
from tracelet.optim.objectives import PopulationObjective, accumulate, batched
from tracelet.optim.population import PopulationOptimizer

__all__ = ["AdaptiveBFO", "BFO", "HybridBFO", "PopulationObjective", "PopulationOptimizer", "accumulate", "batched"]
