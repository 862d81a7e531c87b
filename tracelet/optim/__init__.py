"""Population optimizers for PyTorch: bacterial foraging and its kin.

`BFOCallback` is one of its names too, and not in `__all__`: it needs Lightning, which is imported when it is asked for.
"""

from tracelet.optim.adaptive_bfo import AdaptiveBFO
from tracelet.optim.bfo import BFO
from tracelet.optim.checkpoint import load, save
from tracelet.optim.cmaes import CMAES
from tracelet.optim.differential_evolution import DifferentialEvolution
from tracelet.optim.hybrid_bfo import HybridBFO
from tracelet.optim.objectives import PopulationObjective, accumulate, batched
from tracelet.optim.on_demand import __getattr__ as __getattr__
from tracelet.optim.particle_swarm import ParticleSwarm
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.scheduling import BFOScheduler

__all__ = [
    "BFO",
    "CMAES",
    "AdaptiveBFO",
    "BFOScheduler",
    "DifferentialEvolution",
    "HybridBFO",
    "ParticleSwarm",
    "PopulationObjective",
    "PopulationOptimizer",
    "accumulate",
    "batched",
    "load",
    "save",
]
