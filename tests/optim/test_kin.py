"""CMAES, DifferentialEvolution and ParticleSwarm: against their loops, and on landscapes they are known to master."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reference.kin import slow_evolution, slow_swarm
from tests.support.landscapes import rosenbrock, sphere
from tracelet.optim import CMAES, DifferentialEvolution, ParticleSwarm, batched, separable_cma


def wavy(point: Tensor) -> float:
    return sum(each * each - math.cos(3 * each) for each in point.tolist())


@batched(flat=True)
def waves(points: Tensor) -> Tensor:
    return torch.tensor([wavy(point) for point in points], dtype=torch.float64)


def started(optimizer: Any) -> tuple[Tensor, torch.Generator]:
    """The first positions, and a generator that goes on as the optimizer's own will."""
    optimizer.ask()
    generator = torch.Generator()
    generator.set_state(optimizer._noise.state())
    return optimizer.population.clone(), generator


@pytest.mark.parametrize("decisions", ["host", "device"])
@pytest.mark.parametrize("strategy", ["rand1bin", "best1bin"])
def test_evolution_takes_the_way_of_the_loops(strategy: str, decisions: str) -> None:
    optimizer = DifferentialEvolution(
        [torch.full((4,), 2.0, dtype=torch.float64)], 7, 0.7, 0.6, strategy=strategy, seed=3, decisions=decisions
    )
    positions, generator = started(optimizer)
    for _ in range(12):
        optimizer.step(waves)
    expected = slow_evolution(positions, wavy, 12, generator, 0.7, 0.6, strategy == "best1bin")
    torch.testing.assert_close(optimizer.population, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decisions", ["host", "device"])
def test_a_swarm_takes_the_way_of_the_loops(decisions: str) -> None:
    optimizer = ParticleSwarm(
        [torch.full((4,), 2.0, dtype=torch.float64)],
        6,
        0.8,
        1.5,
        1.7,
        bounds=(-3.0, 4.0),
        max_velocity=0.2,
        seed=3,
        decisions=decisions,
    )
    positions, generator = started(optimizer)
    for _ in range(12):
        optimizer.step(waves)
    known, where = slow_swarm(positions, wavy, 12, generator, (0.8, 1.5, 1.7), (-3.0, 4.0), 5 * 0.2 * 0.2 * 7)
    torch.testing.assert_close(optimizer.population, known, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(optimizer._state.places, where, rtol=1e-10, atol=1e-12)


def test_constants_of_cma_are_the_tutorials() -> None:
    """Hansen 2016, table 1, for ten dimensions and ten samples."""
    rate = separable_cma.rates(10, 10, separable=False)
    assert sum(rate.weights) == pytest.approx(1)
    assert rate.mass == pytest.approx(3.167, abs=2e-3)
    assert rate.sigma == pytest.approx((rate.mass + 2) / (10 + rate.mass + 5))
    assert rate.path == pytest.approx((4 + rate.mass / 10) / (14 + 2 * rate.mass / 10))
    assert rate.one == pytest.approx(2 / (11.3**2 + rate.mass))
    assert rate.mu == pytest.approx(2 * (rate.mass - 2 + 1 / rate.mass) / (144 + rate.mass))
    assert separable_cma.rates(10, 10, separable=True).one == pytest.approx(4 * rate.one)


def test_without_selection_the_step_size_neither_grows_nor_shrinks() -> None:
    """Under a fitness of mere noise, ln sigma is a random walk without drift (Hansen 2016, section 4)."""
    generator = torch.Generator().manual_seed(0)
    grown = []
    for seed in range(12):
        optimizer = CMAES([torch.zeros(6)], population_size=12, sigma=1.0, seed=seed)
        for _ in range(60):
            points = optimizer.ask()
            optimizer.tell(torch.rand(len(points), generator=generator))
        grown.append(optimizer._state.sigma.log().item())
    assert abs(sum(grown) / len(grown)) < 0.35


def test_cma_learns_the_axes_of_a_rotated_ellipse() -> None:
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    scales = torch.logspace(0, 4, 6, dtype=torch.float64)

    @batched(flat=True)
    def ellipse(points: Tensor) -> Tensor:
        return ((points @ axes).square() * scales).sum(1)

    optimizer = CMAES([torch.ones(6, dtype=torch.float64)], sigma=0.5, seed=0)
    for _ in range(350):
        optimizer.step(ellipse)
    assert optimizer.best_fitness < 1e-8
    # The covariance is the inverse of the landscape's curvature, up to a factor.
    inside = axes.T @ optimizer._state.covariance @ axes
    ratios = inside.diagonal() * scales
    assert ratios.max() / ratios.min() < 30
    assert optimizer.status["axis_ratio"] == pytest.approx(100, rel=0.7)


@pytest.mark.parametrize("separable", [True, False])
def test_cma_solves_a_sphere_as_fast_as_it_is_told_to(separable: bool) -> None:
    optimizer = CMAES([torch.ones(10, dtype=torch.float64)], sigma=0.3, separable=separable, seed=0)
    for _ in range(200):
        optimizer.step(sphere)
    # pycma needs about 1,700 evaluations for 1e-9 here: ten of its samples, 170 generations.
    assert optimizer.best_fitness < 1e-8


def test_evolution_and_swarm_solve_rosenbrock() -> None:
    for kind in (DifferentialEvolution, ParticleSwarm):
        optimizer = kind([torch.full((3,), -1.0)], 30, bounds=(-2.0, 2.0), seed=0)
        for _ in range(150):
            optimizer.step(rosenbrock)
        assert optimizer.best_fitness < 0.1


def test_the_names_of_the_arguments_and_the_loop_that_asks_whether_to_stop() -> None:
    """As documents of torchium spell them."""
    for optimizer in (
        CMAES([torch.ones(3)], population_size=20, sigma=0.1, max_generations=7),
        DifferentialEvolution(
            [torch.ones(3)], population_size=30, mutation_factor=0.8, crossover_probability=0.9, max_generations=7
        ),
        ParticleSwarm(
            [torch.ones(3)],
            swarm_size=20,
            inertia_weight=0.9,
            cognitive_weight=2.0,
            social_weight=2.0,
            max_iterations=7,
        ),
    ):
        optimizer.set_objective(sphere)
        steps = 0
        while not optimizer.should_stop():
            optimizer.step()
            steps += 1
        assert steps == 7
        assert optimizer.stop_reason.startswith("max_")
