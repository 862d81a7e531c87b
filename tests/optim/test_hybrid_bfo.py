"""HybridBFO: runs along gradients that are only taken where they help."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.support.landscapes import rosenbrock, sphere
from tracelet.optim import HybridBFO, PopulationObjective, batched
from tracelet.optim.hybrid_bfo import gradient_run


def test_its_direction_is_adams() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.99), eps=0.0)
    momentum, square = torch.zeros(1, 3), torch.zeros(1, 3)
    for number in range(1, 6):
        gradient = torch.tensor([number * 0.3, -1.0, 0.01 * number])
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        adam.step()
        direction, momentum, square = gradient_run(
            momentum, square, torch.tensor([float(number)]), gradient.unsqueeze(0), 0.9, 0.99
        )
        torch.testing.assert_close(direction.squeeze(0), parameter.detach() - before, rtol=1e-4, atol=1e-5)


def test_on_one_batch_the_loss_never_rises() -> None:
    optimizer = HybridBFO([torch.tensor([-1.0, 1.5, 0.5])], population_size=3, lr=5.0, seed=0)
    losses = [optimizer.step(rosenbrock).item() for _ in range(80)]
    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] < losses[0] / 20


@pytest.mark.parametrize("lr", [1e-4, 1e-2, 10.0])
def test_the_learning_rate_is_a_start_and_not_a_fate(lr: float) -> None:
    optimizer = HybridBFO([torch.full((6,), 2.0)], population_size=2, lr=lr, init_std=0.1, seed=0)
    for _ in range(120):
        optimizer.step(sphere)
    assert optimizer.best_fitness < 0.2  # of 24


@pytest.mark.parametrize("decisions", ["host", "device"])
def test_swims_go_on_in_the_same_direction(decisions: str) -> None:
    counts = []
    for swim_length in (0, 4):
        optimizer = HybridBFO(
            [torch.full((3,), 50.0)],
            population_size=1,
            lr=1.0,
            swim_length=swim_length,
            seed=0,
            decisions=decisions,
        )
        optimizer.step(sphere)
        counts.append(optimizer.evaluations)
        expected = torch.full((3,), 49.0 - swim_length)
        torch.testing.assert_close(optimizer.best_params, expected)
    assert counts == [2, 6]


def test_both_ways_to_decide_take_the_same_way() -> None:
    ways = []
    for decisions in ("host", "device"):
        optimizer = HybridBFO(
            [torch.tensor([-1.0, 1.5, 0.5, 2.0], dtype=torch.float64)],
            population_size=5,
            lr=0.1,
            swim_length=3,
            chem_steps=5,
            repro_steps=2,
            seed=0,
            decisions=decisions,
        )
        for _ in range(30):
            optimizer.step(rosenbrock)
        assert optimizer.status["elimination_count"] > 0
        ways.append((optimizer.population, optimizer.best_fitness, optimizer._state.pace))
    torch.testing.assert_close(*ways, rtol=1e-9, atol=1e-12)


def test_what_it_costs_is_counted() -> None:
    optimizer = HybridBFO([torch.ones(2)], population_size=3, seed=0)
    for _ in range(4):
        optimizer.step(sphere)
    assert optimizer.evaluations == 4 * (3 + 3)
    assert optimizer.status["gradient_evaluations"] == 12


def test_the_best_survives_reproduction_and_dispersal() -> None:
    optimizer = HybridBFO(
        [torch.full((4,), 2.0)], population_size=6, chem_steps=2, repro_steps=1, elim_prob=1.0, init_std=1.0, seed=0
    )
    losses = [optimizer.step(sphere).item() for _ in range(30)]
    assert all(after <= before for before, after in pairwise(losses))
    assert optimizer.status["reproduction_count"] == 15
    assert optimizer.status["elimination_count"] == 15 * 5


def test_gradients_are_optional_between_ask_and_tell() -> None:
    optimizer = HybridBFO([torch.full((3,), 2.0)], population_size=5, lr=0.2, seed=0)
    for _ in range(120):
        points = optimizer.ask()
        optimizer.tell(sphere(points))
    assert optimizer.best_fitness < 3
    assert optimizer.status["gradient_evaluations"] == 0


def test_objectives_without_a_graph_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2))

    @batched(flat=True)
    def counted(points: Tensor) -> Tensor:
        return points.detach().sum(1)

    with pytest.raises(RuntimeError, match="graph"):
        HybridBFO([parameter]).step(counted)
    with pytest.raises(RuntimeError, match="backward"):
        HybridBFO([parameter]).step(lambda: parameter.sum().item())


def test_a_network_learns_from_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(240, 4)
    y = (x[:, :3] + x[:, 1:]).argmax(1)
    objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=None)
    optimizer = HybridBFO(model.parameters(), population_size=2, lr=1.0, seed=0)
    for number in range(150):
        part = slice(number % 4 * 60, number % 4 * 60 + 60)
        optimizer.step(objective(x[part], y[part]))
    assert (model(x).argmax(1) == y).float().mean() > 0.85
