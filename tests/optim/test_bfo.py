"""BFO against the paper's loops, and what its events promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.reference.foraging import SlowBFO
from tests.support.landscapes import rastrigin, sphere
from tracelet.optim import BFO, batched, foraging


def wavy(point: Tensor) -> float:
    """One point; the same float operations as `waves` in the same order."""
    total = 0.0
    for each in point.tolist():
        total += each * each - math.cos(3 * each)
    return total


@batched(flat=True)
def waves(points: Tensor) -> Tensor:
    return torch.tensor([wavy(point) for point in points], dtype=torch.float64)


@pytest.mark.parametrize("decisions", ["host", "device"])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"swarming": (0.1, 0.2, 0.1, 10.0)},
        {"swarming": (0.3, 0.2, 0.1, 10.0), "population_size": 7},
        {"dasgupta": 4.0},
        {"swim_length": 0},
    ],
    ids=["plain", "swarming", "odd", "dasgupta", "no swims"],
)
def test_the_trajectory_is_that_of_the_papers_loops(decisions: str, case: dict) -> None:
    swarming, dasgupta = case.get("swarming"), case.get("dasgupta")
    common = {
        "population_size": case.get("population_size", 8),
        "chem_steps": 3,
        "swim_length": case.get("swim_length", 4),
        "repro_steps": 2,
        "elim_prob": 0.3,
        "bounds": (-4.0, 5.0),
        "seed": 11,
    }
    start = torch.tensor([3.0, -2.0, 1.0, 0.5], dtype=torch.float64)
    slow = SlowBFO(start, wavy, step_size=0.3, swarming=swarming, dasgupta=dasgupta, **common)
    fast = BFO(
        [start.clone()],
        step_size_max=0.3,
        use_swarming=swarming is not None,
        swarming_params=swarming or (0.1, 0.2, 0.1, 10.0),
        step_schedule="dasgupta" if dasgupta else "constant",
        step_scale=dasgupta or 1.0,
        decisions=decisions,
        reevaluate="never",
        **common,
    )
    for number in range(14):
        fast.step(waves)
        slow.round()
        if fast._state.phase != "parents":  # else the slow one has judged the dispersed already
            torch.testing.assert_close(fast.population, torch.stack(slow.where), rtol=1e-9, atol=1e-9)
            assert fast.fitness.tolist() == pytest.approx(slow.loss, rel=1e-9)
            assert fast._state.cost.tolist() == pytest.approx(slow.cost, rel=1e-9)
            assert fast.best_fitness == pytest.approx(slow.best, rel=1e-12)
            if decisions == "host":
                assert fast.evaluations == slow.evaluations + number + 1  # the incumbent, once a step
        if decisions == "device":
            rounds = number + 1
            dispersals = number // 6
            assert fast.evaluations == 8 * 0 + rounds * (
                common["population_size"] * (1 + common["swim_length"]) + 1
            ) + common["population_size"] + dispersals * (common["population_size"] + 1)
    assert slow.rounds == 14


@pytest.mark.parametrize("swarming", [False, True])
def test_both_ways_to_decide_take_the_same_way(swarming: bool) -> None:
    ways = []
    for decisions in ("host", "device"):
        optimizer = BFO(
            [torch.full((6,), 2.0, dtype=torch.float64)],
            population_size=9,
            bounds=(-5.12, 5.12),
            use_swarming=swarming,
            seed=3,
            decisions=decisions,
        )
        for _ in range(45):
            optimizer.step(waves)
        ways.append((optimizer.population, optimizer.best_fitness))
    torch.testing.assert_close(ways[0], ways[1], rtol=1e-9, atol=1e-12)


def test_the_swarming_term_attracts() -> None:
    """A bacterium is better off nearer to the colony, down to where the repellent begins."""
    colony = torch.zeros(5, 3)
    colony[:, 0] = torch.linspace(-0.1, 0.1, 5)
    way = torch.zeros(4, 3)
    way[:, 0] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    cost = foraging.swarming_cost(way, foraging.centred(colony), torch.zeros(4, dtype=torch.long), 0.1, 0.2, 0.1, 10.0)
    assert (cost.diff() < 0).all()
    assert (cost < 0).all()


def test_nobody_signals_to_itself_and_scale_does_not_depend_on_the_dimensions() -> None:
    for dimensions in (3, 30_000):
        colony = torch.randn(6, dimensions)
        cost = foraging.swarming_cost(None, foraging.centred(colony), None, 0.3, 0.2, 0.1, 10.0)
        torch.testing.assert_close(
            foraging.swarming_cost(colony, foraging.centred(colony), None, 0.3, 0.2, 0.1, 10.0),
            cost,
            rtol=1e-3,
            atol=1e-5,
        )
        distance = torch.cdist(colony.double(), colony.double()).square() / dimensions
        signal = 0.1 * torch.exp(-10 * distance) - 0.3 * torch.exp(-0.2 * distance)
        signal.fill_diagonal_(0)
        torch.testing.assert_close(cost.double(), signal.sum(1), rtol=1e-3, atol=1e-4)
        assert cost.abs().min() > 1e-3


def test_reproduction_ranks_accumulated_health() -> None:
    health = torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0])
    assert foraging.reproduction(health).tolist() == [1, 2, 0, 1, 2]
    optimizer = BFO([torch.zeros(2)], population_size=4, chem_steps=2, swim_length=0, step_size_max=0.0, seed=0)
    values = [
        torch.tensor([5.0, 1.0, 9.0, 2.0]),
        torch.tensor([4.0, 8.0, 0.0, 1.0]),
        torch.tensor([1.0, 9.0, 0.0, 3.0]),
    ]
    for value in values:  # the parents, and two rounds: health 5, 17, 0, 4
        where = optimizer.ask()
        optimizer.tell(value)
    torch.testing.assert_close(optimizer.population, where[[2, 3, 2, 3]])


def test_dispersal_is_uniform_in_the_bounds() -> None:
    optimizer = BFO(
        [torch.zeros(50)], population_size=200, chem_steps=1, repro_steps=1, elim_prob=1.0, bounds=(-3.0, 5.0), seed=0
    )
    optimizer.step(sphere)
    positions = optimizer.population.flatten()
    quantiles = torch.quantile(positions, torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([-2.2, 1.0, 4.2]), atol=0.2, rtol=0)
    assert optimizer.status["elimination_count"] == 200


def test_a_cycle_is_the_classical_unit() -> None:
    optimizer = BFO([torch.ones(3)], population_size=6, chem_steps=3, repro_steps=2, elim_steps=2, unit="cycle", seed=1)
    optimizer.step(sphere)
    assert optimizer.status["rounds"] == 12
    assert optimizer.status["reproduction_count"] == 4
    assert optimizer.status["steps"] == 1


@pytest.mark.parametrize("tumble", ["uniform", "gaussian", "levy"])
def test_every_tumble_finds_downhill(tumble: str) -> None:
    optimizer = BFO([torch.full((5,), 2.0)], population_size=20, tumble=tumble, seed=0, init_std=0.1)
    optimizer.step(sphere)
    before = optimizer.best_fitness
    for _ in range(30):
        optimizer.step(sphere)
    assert optimizer.best_fitness < before / 4


def test_schedules_shorten_the_runs() -> None:
    for schedule in ("linear", "cosine"):
        optimizer = BFO(
            [torch.ones(3)],
            population_size=4,
            step_schedule=schedule,
            max_evaluations=400,
            step_size_max=0.5,
            step_size_min=0.01,
            seed=0,
        )
        optimizer.step(rastrigin)
        first = optimizer.status["step_size"]
        while not optimizer.should_stop():
            optimizer.step(rastrigin)
        assert 0.4 < first < 0.5
        assert optimizer.status["step_size"] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="max_evaluations"):
        BFO([torch.ones(3)], step_schedule="linear")


def test_both_spellings_and_no_others() -> None:
    one = BFO([torch.ones(1)], chem_steps=3, repro_steps=2, elim_steps=5, elim_prob=0.1, use_swarming=True)
    other = BFO(
        [torch.ones(1)],
        chemotaxis_steps=3,
        reproduction_steps=2,
        elimination_steps=5,
        elimination_prob=0.1,
        enable_swarming=True,
    )
    assert one.defaults == other.defaults
    with pytest.raises(TypeError, match="chem_step"):
        BFO([torch.ones(1)], chem_step=3)


def test_swarming_that_is_switched_off_leaves_nothing_in_the_cost() -> None:
    optimizer = BFO([torch.ones(3)], population_size=6, use_swarming=True, seed=0)
    for _ in range(2):
        optimizer.step(sphere)
    assert not torch.equal(optimizer._state.cost, optimizer.fitness)
    optimizer.defaults["use_swarming"] = False
    for _ in range(2):
        optimizer.step(sphere)
    assert torch.equal(optimizer._state.cost, optimizer.fitness)
