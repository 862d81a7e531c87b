"""Optimizers for tests of what their steps leave in a run, and what they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.spool_points import points, records_of
from tracelet.core.metrics import Metric, Params
from tracelet.optim import BFO, CMAES, AdaptiveBFO, DifferentialEvolution, HybridBFO, ParticleSwarm

__all__ = ["POPULATIONS", "Reads", "bfo", "found", "parameter", "params", "series"]

POPULATIONS = [BFO, AdaptiveBFO, HybridBFO, CMAES, DifferentialEvolution, ParticleSwarm]


def parameter() -> nn.Parameter:
    """Three weights."""
    return nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def bfo(kind: Any = BFO, **settings: Any) -> Any:
    """A population optimizer of eight bacteria."""
    return kind([parameter()], population_size=8, seed=0, **settings)


def found(home: Path, run_id: str | None = None) -> dict[str, list[Metric]]:
    """Points by name."""
    by_name: dict[str, list[Metric]] = {}
    for point in points(home, run_id):
        by_name.setdefault(point.name, []).append(point)
    return by_name


def series(home: Path, run_id: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point, by name."""
    return {name: [(point.step, point.value) for point in each] for name, each in found(home, run_id).items()}


def params(home: Path) -> dict[str, Any]:
    """All parameters of the runs."""
    return {name: value for record in records_of(Params, home) for name, value in record.values.items()}


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device, or copies to it: reads of numbers, and shapes that depend on numbers.

    All tensors here are on the CPU, so what would be a copy to the host is one to a tensor of the same device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See an operation, and let it happen."""
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))
