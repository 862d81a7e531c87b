"""Objectives over a whole population, and the closure over micro-batches."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from tracelet.optim import BFO, HybridBFO, PopulationObjective, accumulate


def each_loss(model: nn.Module, points: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    losses = []
    for point in points:
        torch.nn.utils.vector_to_parameters(point, model.parameters())
        losses.append(nn.functional.cross_entropy(model(x), y).detach())
    return torch.stack(losses)


@pytest.mark.parametrize("chunk_size", ["auto", None, 3])
def test_a_models_losses_are_those_of_its_members(chunk_size: int | str | None) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(7, 6), torch.randint(3, (7,))
    optimizer = BFO(model.parameters(), population_size=8, seed=0)
    objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=chunk_size)
    optimizer.step(objective(x, y))
    expected = each_loss(model, optimizer.population, x, y)
    torch.testing.assert_close(optimizer.fitness.float(), expected)


def test_memory_bounds_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(100, 100)
    x, y = torch.randn(4, 100), torch.randn(4, 100)
    rows: list[int] = []
    original = torch.func.vmap

    def vmap(function, randomness, chunk_size=None):
        rows.append(chunk_size)
        return original(function, randomness=randomness, chunk_size=chunk_size)

    monkeypatch.setattr("tracelet.optim.objectives.vmap", vmap)
    monkeypatch.setattr("tracelet.optim.objectives._free_memory", lambda device: 20_000)
    optimizer = BFO(model.parameters(), population_size=8, swim_length=0, seed=0)
    optimizer.step(PopulationObjective(model, nn.functional.mse_loss)(x, y))
    assert 1 in rows[1:]
    assert (
        len([each for each in rows if each is None]) <= 2
    )  # what one member needs was measured, and the incumbent alone


def test_what_vmap_cannot_do_falls_back_with_one_warning() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    statistics = model[1].running_mean.clone()
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    optimizer = HybridBFO(model.parameters(), population_size=3, seed=0)
    objective = PopulationObjective(model, nn.functional.mse_loss)
    with pytest.warns(UserWarning, match="one by one"):
        first = optimizer.step(objective(x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            last = optimizer.step(objective(x, y))
    assert last < first
    assert torch.equal(model[1].running_mean, statistics)


def test_the_users_own_errors_are_not_taken_for_vmaps() -> None:
    model = nn.Linear(2, 1)

    def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mine")

    objective = PopulationObjective(model, loss_fn)(torch.ones(1, 2), torch.ones(1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="mine"):
            BFO(model.parameters()).step(objective)


def test_gradients_are_those_of_the_point_that_moves() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    seen = {}
    for way in ("model", "closure"):
        optimizer = HybridBFO(model.parameters(), population_size=4, seed=1, momentum=0.0, init_std=1.0)
        with torch.no_grad():
            nn.init.ones_(model.weight)
            nn.init.zeros_(model.bias)
        optimizer.ask()
        start = optimizer.population.clone()

        def closure() -> torch.Tensor:
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(PopulationObjective(model, nn.functional.mse_loss)(x, y) if way == "model" else closure)
        expected = []
        for point in start:
            torch.nn.utils.vector_to_parameters(point, model.parameters())
            model.zero_grad()
            closure()
            expected.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        torch.testing.assert_close(optimizer._state.momentum, torch.stack(expected), rtol=1e-4, atol=1e-6)
        seen[way] = optimizer.population
    torch.testing.assert_close(seen["model"], seen["closure"], rtol=1e-4, atol=1e-6)


def test_frozen_parameters_of_the_model_are_used_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = BFO(model.parameters(), population_size=6, seed=0)
    optimizer.step(PopulationObjective(model, nn.functional.mse_loss)(torch.randn(4, 2), torch.randn(4, 1)))
    assert optimizer.population.shape == (6, 4)
    assert torch.equal(model[0].weight, before)


def test_the_same_batch_is_the_same_objective_until_it_changes() -> None:
    model = nn.Linear(2, 1)
    objective = PopulationObjective(model, nn.functional.mse_loss)
    x, y = torch.randn(4, 2), torch.randn(4, 1)
    optimizer = HybridBFO(model.parameters(), seed=0)
    assert objective(x, y).same_as(objective(x, y))
    assert not objective(x, y).same_as(objective(x.clone(), y))
    bound = objective(x, y)
    x.add_(1)
    assert not objective(x, y).same_as(bound)
    bfo = BFO(model.parameters(), population_size=5, swim_length=0, seed=0)
    counts = []
    for batch in (x, x, x.clone()):
        before = bfo.evaluations
        bfo.step(objective(batch, y))
        counts.append(bfo.evaluations - before)
    assert counts == [5 + 5 + 1, 5 + 1, 6 + 5 + 1]
    assert optimizer.evaluations == 0


def test_an_objective_of_another_model_is_refused() -> None:
    model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    with pytest.raises(ValueError, match="does not have"):
        BFO(model.parameters()).step(
            PopulationObjective(other, nn.functional.mse_loss)(torch.ones(1, 2), torch.ones(1, 1))
        )
    for wrong in ({"chunk_size": 0}, {"chunk_size": "all"}, {"randomness": "none"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PopulationObjective(model, nn.functional.mse_loss, **wrong)


@pytest.mark.parametrize("backward", [False, True])
def test_accumulated_batches_are_the_same_for_everybody(backward: bool) -> None:
    model = nn.Linear(2, 1)
    data = iter([(torch.randn(3, 2), torch.randn(3, 1)) for _ in range(4)])
    batches = [next(data), next(data)]
    optimizer = (HybridBFO if backward else BFO)(model.parameters(), population_size=4, seed=0)
    closure = accumulate(
        lambda batch: nn.functional.mse_loss(model(batch[0]), batch[1]), iter(batches), backward=backward
    )
    loss = optimizer.step(closure)
    expected = sum(nn.functional.mse_loss(model(x), y).item() for x, y in batches) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="no batch"):
        accumulate(lambda batch: batch, [])
