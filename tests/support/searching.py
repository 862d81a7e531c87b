"""Population optimizers for tests of what all of them promise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tracelet import optim

__all__ = ["ALGORITHMS", "judged", "make", "tensor"]

ALGORITHMS = ["BFO", "AdaptiveBFO", "HybridBFO", "CMAES", "DifferentialEvolution", "ParticleSwarm"]


def make(name: str, params: Any, **kwargs: Any) -> Any:
    kwargs.setdefault("population_size", 10)
    return getattr(optim, name)(params, **kwargs)


def tensor(*values: float, **kwargs: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, **kwargs))


def judged(loss: Tensor) -> float:
    """What a closure returns that has called backward and keeps no graph."""
    loss.backward()
    return loss.item()
