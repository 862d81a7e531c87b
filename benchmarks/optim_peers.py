"""Other libraries' optimizers on the same landscapes, each as its documentation calls it, with the same start and spread."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from landscapes import Landscape
from torch import Tensor

__all__ = ["PEERS", "Peer"]

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Peer:
    """An optimizer of another library.

    Attributes:
        package: what has to be installed.
        start: (landscape, objective, population, seed) -> one generation's work, to be called again and again; it returns
            False when it has ended by itself.
    """

    package: str
    start: Callable[[Landscape, Objective, int, int], Callable[[], bool]]

    @property
    def installed(self) -> bool:
        """Whether it can be measured."""
        return find_spec(self.package) is not None


def _pycma(landscape: Landscape, objective: Objective, population: int, seed: int) -> Callable[[], bool]:
    import cma
    import numpy

    settings: dict[str, Any] = {
        "popsize": population,
        "seed": seed + 1,  # 0 is the time of day
        "bounds": [-landscape.width, landscape.width],
        "verbose": -9,
        "maxfevals": 1 << 30,
    }
    search = cma.CMAEvolutionStrategy(landscape.start.double().numpy(), 0.4 * landscape.width, settings)

    def generation() -> bool:
        points = search.ask()
        search.tell(points, objective(torch.tensor(numpy.asarray(points)).float()).tolist())
        return not search.stop()

    return generation


def _snes(landscape: Landscape, objective: Objective, population: int, seed: int) -> Callable[[], bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evotorch import Problem
        from evotorch.algorithms import SNES
        from evotorch.decorators import vectorized

        logging.getLogger("evotorch").setLevel(logging.WARNING)
        width = landscape.width
        problem = Problem(
            "min",
            vectorized(lambda points: objective(points.clamp(-width, width))),  # it knows no bounds
            solution_length=landscape.dimensions,
            initial_bounds=(-width, width),
            dtype=torch.float32,
            store_solution_stats=False,
            seed=seed,
        )
        search = SNES(problem, popsize=population, stdev_init=0.4 * width, center_init=landscape.start.clone())

    def generation() -> bool:
        search.step()
        return True

    return generation


PEERS: Mapping[str, Peer] = {"pycma": Peer("cma", _pycma), "EvoTorch SNES": Peer("evotorch", _snes)}
