"""CMAES beside pycma, its authors' own: the same statistics of the way, generation by generation."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import cma
import pytest
import torch
from torch import Tensor

from tracelet.optim import CMAES, batched

DIMENSIONS, SAMPLES, GENERATIONS, SEEDS = 6, 10, 90, 9
SCALES = {"sphere": torch.ones(DIMENSIONS), "ellipsoid": torch.logspace(0, 3, DIMENSIONS)}
Way = tuple[list[float], list[float]]


def ours(losses: Callable[[Tensor], Tensor], seed: int) -> Way:
    optimizer = CMAES([torch.ones(DIMENSIONS, dtype=torch.float64)], population_size=SAMPLES, sigma=0.5, seed=seed)
    best, sigmas = [], []
    for _ in range(GENERATIONS):
        points = optimizer.ask()
        fitness = losses(points)
        optimizer.tell(fitness)
        best.append(fitness.min().log().item())
        sigmas.append((optimizer._state.sigma * 0.5).log().item())  # pycma's is in the units of the parameters
    return best, sigmas


def theirs(losses: Callable[[Tensor], Tensor], seed: int) -> Way:
    # Without negative weights, which the tutorial's algorithm (and ours) does not have.
    settings = {"popsize": SAMPLES, "seed": seed + 1, "verbose": -9, "CMA_active": False}
    search = cma.CMAEvolutionStrategy([1.0] * DIMENSIONS, 0.5, settings)
    best, sigmas = [], []
    for _ in range(GENERATIONS):
        points = search.ask()
        fitness = losses(torch.stack([torch.from_numpy(point) for point in points]))
        search.tell(points, fitness.tolist())
        best.append(fitness.min().log().item())
        sigmas.append(torch.tensor(search.sigma).log().item())
    return best, sigmas


@pytest.mark.parametrize("landscape", SCALES)
def test_progress_and_step_size_are_those_of_pycma(landscape: str) -> None:
    """Medians over nine seeds: the step size after a third of the way and at its end, and the progress of a generation."""
    scales = SCALES[landscape].double()

    @batched(flat=True)
    def losses(points: Tensor) -> Tensor:
        return (points.square() * scales).sum(1)

    def statistic(run: Callable[[Callable[[Tensor], Tensor], int], Way]) -> tuple[float, float, float]:
        ways = [run(losses, seed) for seed in range(SEEDS)]
        progress = statistics.median((best[-1] - best[9]) / (GENERATIONS - 10) for best, _ in ways)
        early = statistics.median(sigmas[GENERATIONS // 3] for _, sigmas in ways)
        late = statistics.median(sigmas[-1] for _, sigmas in ways)
        return progress, early, late

    mine, its = statistic(ours), statistic(theirs)
    assert mine[0] < -0.05  # e-folds of the loss in a generation
    assert mine[0] == pytest.approx(its[0], rel=0.15)
    assert mine[1] == pytest.approx(its[1], abs=0.8)
    assert mine[2] == pytest.approx(its[2], abs=2.0)
