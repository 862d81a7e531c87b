"""Population optimizers for PyTorch: bacterial foraging and its kin."""

from tracelet.optim.bfo import BFO
from tracelet.optim.objectives import PopulationObjective, accumulate, batched
from tracelet.optim.population import PopulationOptimizer

__all__ = ["BFO", "PopulationObjective", "PopulationOptimizer", "accumulate", "batched"]
