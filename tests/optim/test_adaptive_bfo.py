"""AdaptiveBFO: its events one by one, and landscapes that it is known to master."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch

from tests.support.landscapes import rastrigin, rosenbrock, sphere
from tracelet.optim import AdaptiveBFO, batched, separable_cma, success_history
from tracelet.optim.noise import Noise


def test_run_lengths_are_cut_cauchy_numbers_and_shares_normal_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    memory = torch.tensor([[0.3], [0.6]], dtype=torch.float64)
    count = 200_000
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    normal = torch.randn(2, count, generator=generator, dtype=torch.float64)
    slots = torch.zeros(count, dtype=torch.int64)
    length, share = success_history.drawn(memory, slots, uniform, normal, 0.1)
    # The paper's way: draw again while it is not positive, then cut to 1.
    slow = 0.3 + 0.1 * torch.tan(math.pi * (torch.rand(count * 2, generator=generator, dtype=torch.float64) - 0.5))
    slow = slow[slow > 0][:count].clamp(max=1)
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        length[:100_000].quantile(quantiles), slow[:100_000].quantile(quantiles), atol=5e-3, rtol=0
    )
    assert 0 < length.min() <= length.max() == 1
    assert share.mean().item() == pytest.approx(0.6, abs=1e-2)
    memory = torch.tensor([[0.5], [success_history.TERMINAL]])
    assert success_history.drawn(memory, slots[:9], uniform[:9].float(), normal[:, :9].float(), 0.1)[1].max() < 1e-8


def test_the_memory_learns_the_weighted_lehmer_mean() -> None:
    memory = torch.full((2, 3), 0.5, dtype=torch.float64)
    used = torch.tensor([[0.2, 0.8, 0.9], [0.1, 0.4, 1.0]], dtype=torch.float64)
    gain = torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64)
    few = memory.clone()
    assert success_history.learnt_few(few, 1, used[:, :2], gain[:2], 4.0) == 2
    new, slot = success_history.learnt(memory, torch.tensor(1), used, gain)
    torch.testing.assert_close(few, new, rtol=1e-14, atol=0)
    expected = [(0.04 + 3 * 0.64) / (0.2 + 2.4), (0.01 + 3 * 0.16) / (0.1 + 1.2)]
    assert new[:, 1].tolist() == pytest.approx(expected)
    assert new[:, [0, 2]].eq(0.5).all()
    assert slot == 2
    same, slot = success_history.learnt(new, slot, used, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(same, new)
    assert slot == 2
    terminal, _ = success_history.learnt(
        new, slot, torch.tensor([[0.5, 0.5, 0.5], [1e-9, 1e-9, 0.9]], dtype=torch.float64), gain
    )
    assert terminal[1, 2] == success_history.TERMINAL


def test_partners_of_a_tumble_are_others_and_all_of_them() -> None:
    count, held = 6, 3
    numbers = range(count - 1), range(count + held - 2)
    seen: dict[int, Counter[tuple[int, int]]] = {me: Counter() for me in range(count)}
    for one, two in product(*numbers):
        firsts, seconds = success_history.partners(
            torch.full((count,), one), torch.full((count,), two), torch.tensor(count + held)
        )
        for me in range(count):
            seen[me][int(firsts[me]), int(seconds[me])] += 1
    for me, pairs in seen.items():
        expected = {(a, b) for a in range(count) for b in range(count + held) if len({a, b, me}) == 3}
        assert pairs == dict.fromkeys(expected, 1)


def test_a_tumble_goes_to_one_of_the_best_and_along_a_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    pool = torch.cat((positions, torch.randn(2, 3, generator=generator, dtype=torch.float64)))
    best, one, two = torch.tensor([1, 1, 0, 1]), torch.tensor([2, 0, 3, 0]), torch.tensor([4, 5, 1, 2])
    length = torch.tensor([0.5, 1.0, 0.1, 0.7], dtype=torch.float64)
    chosen = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype=torch.float64)
    found = success_history.social_tumble(positions, pool, best, one, two, length, chosen.clone())
    for i in range(4):
        for j in range(3):
            step = positions[best[i], j] - positions[i, j] + positions[one[i], j] - pool[two[i], j]
            assert found[i, j].item() == pytest.approx((chosen[i, j] * length[i] * step).item())


@pytest.mark.parametrize("many", [False, True], ids=["numbers", "words"])
def test_a_share_of_the_coordinates_is_chosen_and_always_one(many: bool) -> None:
    dimensions = 4000
    noise = Noise(torch.device("cpu"), torch.float32, 0, None)
    numbers = noise.coordinates(8, dimensions) if many else noise.uniform(8, dimensions)
    assert (numbers.dtype == torch.int16) == many
    share = torch.tensor([1e-9, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    ones = success_history.chosen(numbers.clone(), share, torch.arange(8))
    assert ones.dtype == torch.float32
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert ones.diagonal().eq(1).all()
    assert ones[0].sum() == 1
    deviation = (share * (1 - share) / dimensions).sqrt()
    assert ((ones.mean(1) - share).abs() <= 4 * deviation + 2 / dimensions).all()


def test_the_archive_takes_what_was_left_and_makes_room_at_random() -> None:
    for chance in (0.0, 0.7):
        archive, held = torch.zeros(5, 1), torch.tensor(0)
        few, few_held = archive.clone(), 0
        number = 0.0
        for left in ([True, False, True], [True, True, True], [False, True, True]):
            positions = torch.tensor([[number + 1], [number + 2], [number + 3]])
            number += 3
            who = torch.tensor(left)
            archive, held = success_history.archived(archive, held, positions, who, torch.tensor(chance))
            few_held = success_history.archived_few(few, few_held, positions[who], chance)
            assert torch.equal(archive, few)
            assert held == few_held
        assert held == 5
        assert {8.0, 9.0} <= set(archive.flatten().tolist())


def test_what_leaves_the_bounds_goes_half_way() -> None:
    low, high = torch.tensor([-1.0]), torch.tensor([2.0])
    points = torch.tensor([[-3.0], [0.5], [1.9], [7.0]])
    was = torch.tensor([[0.0], [0.0], [-1.0], [1.0]])
    assert success_history.inside(points, was, low, high).flatten().tolist() == [-0.5, 0.5, pytest.approx(1.9), 1.5]


def test_the_swarm_is_separable_cma() -> None:
    """One generation beside the formulas of the tutorial, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(0)
    dimensions, samples = 3, 6
    draws = torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)
    mean, variances = torch.randn(2, dimensions, generator=generator, dtype=torch.float64)
    variances = variances.square() + 0.5
    path_sigma, path = torch.randn(2, dimensions, generator=generator, dtype=torch.float64) * 0.1
    rate = separable_cma.rates(samples, dimensions, separable=True)
    ranked = torch.tensor([4, 0, 2, 1, 3, 5])
    sigma = torch.tensor(0.7, dtype=torch.float64)
    found = separable_cma.separable_update(
        mean,
        sigma,
        variances,
        path_sigma,
        path,
        draws,
        ranked,
        torch.tensor(rate.weights, dtype=torch.float64),
        rate,
        4,
    )
    moved, new_sigma_path, new_path, new_variances = [], [], [], []
    for j in range(dimensions):
        z = sum(w * draws[i, j].item() for w, i in zip(rate.weights, ranked.tolist(), strict=False))
        moved.append(variances[j].item() ** 0.5 * z)
        scale = math.sqrt(rate.sigma * (2 - rate.sigma) * rate.mass)
        new_sigma_path.append((1 - rate.sigma) * path_sigma[j].item() + scale * z)
    norm = math.sqrt(sum(each * each for each in new_sigma_path))
    steady = norm / math.sqrt(1 - (1 - rate.sigma) ** 10) < (1.4 + 2 / (dimensions + 1)) * rate.length
    for j in range(dimensions):
        scale = math.sqrt(rate.path * (2 - rate.path) * rate.mass)
        new_path.append((1 - rate.path) * path[j].item() + steady * scale * moved[j])
        squares = sum(w * draws[i, j].item() ** 2 for w, i in zip(rate.weights, ranked.tolist(), strict=False))
        kept = 1 - rate.one - rate.mu + (1 - steady) * rate.one * rate.path * (2 - rate.path)
        new_variances.append(variances[j].item() * (kept + rate.mu * squares) + rate.one * new_path[j] ** 2)
    expected = [
        [m + 0.7 * step for m, step in zip(mean.tolist(), moved, strict=True)],
        0.7 * math.exp(min(1.0, rate.sigma / rate.damping * (norm / rate.length - 1))),
        new_variances,
        new_sigma_path,
        new_path,
    ]
    few = [each.clone() for each in (mean, variances, path_sigma, path)]
    weights = torch.tensor(rate.weights, dtype=torch.float64)
    few_sigma = separable_cma.separable_update_few(
        few[0], sigma.item(), few[1], few[2], few[3], draws, ranked[:3], weights, rate, 4
    )
    for one, two, other in zip(found, [few[0], torch.tensor(few_sigma), *few[1:]], expected, strict=True):
        assert one.tolist() == pytest.approx(other, rel=1e-12)
        assert two.tolist() == pytest.approx(other, rel=1e-6 if two.dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("swarming", [True, False])
def test_both_ways_to_decide_take_the_same_way(swarming: bool) -> None:
    """Compact rows and plain numbers on the host, masks and tensors on a device."""
    ways = []
    for decisions in ("host", "device"):
        optimizer = AdaptiveBFO(
            [torch.full((5,), 2.0, dtype=torch.float64)],
            population_size=14,
            chem_steps=20,
            stagnation_limit=5,
            elim_prob=0.2,
            bounds=(-5.12, 5.12),
            use_swarming=swarming,
            seed=3,
            decisions=decisions,
        )
        for _ in range(45):
            optimizer.step(rastrigin)
        assert optimizer.status["elimination_count"] > 0
        ways.append((optimizer.population, optimizer.best_fitness, optimizer._state.memory))
    torch.testing.assert_close(*ways, rtol=1e-9, atol=1e-11)


def test_a_known_budget_eliminates_foragers_and_an_unknown_one_does_not() -> None:
    sizes = {}
    for budget in (3000, None):
        optimizer = AdaptiveBFO(
            [torch.full((6,), 2.0)], population_size=24, max_evaluations=budget, bounds=(-5.12, 5.12), seed=0
        )
        while not optimizer.should_stop() and optimizer.evaluations < 3000:
            optimizer.step(rastrigin)
        sizes[budget] = len(optimizer.population)
    swarm = round(4 + 3 * math.log(6))
    assert sizes == {3000: 4, None: 24 - swarm}


def test_a_swarm_with_nothing_to_tell_is_released() -> None:
    optimizer = AdaptiveBFO([torch.zeros(4)], population_size=20, bounds=(-5.12, 5.12), seed=0)

    @batched(flat=True)
    def plateau(points: torch.Tensor) -> torch.Tensor:
        return points.sum(1) * 0 + 1

    counts = []
    for _ in range(61):
        before = optimizer.evaluations
        optimizer.step(plateau)
        counts.append(optimizer.evaluations - before)
    assert optimizer.status["swarm_size"] == 0
    assert counts[1] == 20 + 1
    assert counts[-1] == 20 - round(4 + 3 * math.log(4)) + 1


def test_who_stagnates_is_dispersed_but_never_the_best() -> None:
    optimizer = AdaptiveBFO(
        [torch.zeros(3)], population_size=12, bounds=(-5.0, 5.0), elim_prob=1.0, stagnation_limit=5, seed=0
    )
    for _ in range(60):
        optimizer.step(sphere)
        assert optimizer.best_fitness == 0  # where it began
    assert optimizer.status["elimination_count"] > 0
    assert torch.equal(optimizer.best_params, torch.zeros(3))


@pytest.mark.parametrize(("function", "within"), [(rastrigin, 1e-3), (rosenbrock, 1e-2), (sphere, 1e-10)])
def test_it_masters_small_landscapes(function, within: float) -> None:
    optimizer = AdaptiveBFO(
        [torch.tensor([3.0, -2.0, 4.0, 1.0])], population_size=24, bounds=(-5.12, 5.12), max_evaluations=9_000, seed=1
    )
    while not optimizer.should_stop():
        optimizer.step(function)
    assert optimizer.best_fitness < within
