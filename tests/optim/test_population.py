"""What every population optimizer promises, whatever the algorithm: a step, and what it is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.landscapes import rastrigin, sphere
from tests.support.searching import judged, make, tensor
from tracelet import optim
from tracelet.optim import batched


def test_a_step_ends_with_the_incumbent_in_the_parameters(build: Callable[..., Any]) -> None:
    parameter = tensor(3.0, -2.0, 1.0)
    seen: list[float] = []

    def closure() -> Tensor:
        loss = parameter.square().sum()
        seen.append(loss.item())
        return loss

    optimizer = build([parameter], seed=0)
    first = optimizer.step(closure)
    for _ in range(12):
        loss = optimizer.step(closure)
        assert isinstance(loss, Tensor)
        assert loss.item() == seen[-1] == pytest.approx(optimizer.best_fitness)
        torch.testing.assert_close(parameter.detach(), optimizer.best_params)
        assert parameter.detach().square().sum().item() == pytest.approx(optimizer.best_fitness)
    assert loss < first
    assert len(seen) == optimizer.evaluations
    assert isinstance(optimizer.best_fitness, float)


def test_a_closure_that_returns_a_float_gets_one_back(build: Callable[..., Any]) -> None:
    parameter = tensor(1.0, 2.0)
    assert type(build([parameter]).step(lambda: judged(parameter.square().sum()))) is float


def test_closures_may_call_backward(build: Callable[..., Any]) -> None:
    model = nn.Linear(3, 1)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = build(model.parameters(), seed=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(10)]
    assert losses[-1] < losses[0]
    assert model.weight.requires_grad
    assert not optimizer.population.requires_grad


def test_all_ways_to_judge_take_the_same_way(build: Callable[..., Any]) -> None:
    """Closure, batched closure over names, batched closure over rows, model under vmap, ask and tell."""
    torch.manual_seed(0)
    start = nn.Linear(2, 2).double()
    x, y = torch.randn(6, 2).double(), torch.randn(6, 2).double()

    def run(way: str) -> Tensor:
        model = nn.Linear(2, 2).double()
        model.load_state_dict(start.state_dict())
        optimizer = build(model.named_parameters(), seed=5, reevaluate="never")

        def error(weight: Tensor, bias: Tensor) -> Tensor:
            output = torch.einsum("...oi,bi->...bo", weight, x) + bias.unsqueeze(-2)
            return (output - y).square().mean((-1, -2))

        def closure() -> Tensor:
            loss = error(model.weight, model.bias)
            loss.backward()
            return loss

        @batched
        def named(parameters: dict[str, Tensor]) -> Tensor:
            return error(parameters["weight"], parameters["bias"])

        @batched(flat=True)
        def rows(points: Tensor) -> Tensor:
            return error(points[:, :4].view(-1, 2, 2), points[:, 4:])

        objective = optim.PopulationObjective(model, nn.functional.mse_loss)
        for _ in range(6):
            if way == "told":
                steps = optimizer.status["steps"]
                while optimizer.status["steps"] == steps:
                    points = optimizer.ask()
                    gradients = None
                    with torch.enable_grad():
                        points = points.requires_grad_()
                        fitness = rows(points)
                        (gradients,) = torch.autograd.grad(fitness.sum(), points)
                    optimizer.tell(fitness, gradients)
            else:
                optimizer.step({"closure": closure, "named": named, "rows": rows, "model": objective(x, y)}[way])
        return optimizer.population

    reference = run("closure")
    for way in ("named", "rows", "model", "told"):
        torch.testing.assert_close(run(way), reference, rtol=1e-6, atol=1e-8)


def test_exceptions_of_the_closure_propagate_and_leave_the_parameters(build: Callable[..., Any]) -> None:
    parameter = tensor(1.0, 2.0)
    optimizer = build([parameter], seed=0)
    optimizer.step(lambda: parameter.square().sum())
    before = parameter.detach().clone()
    data = iter(range(3))

    def closure() -> Tensor:
        next(data)
        return parameter.square().sum()

    with pytest.raises(StopIteration):
        optimizer.step(closure)
    assert torch.equal(parameter, before)
    loss = optimizer.step(lambda: parameter.square().sum())  # and the search goes on
    assert math.isfinite(loss.item())


def test_what_is_not_finite_loses_and_is_counted(build: Callable[..., Any]) -> None:
    told = 0

    @batched(flat=True)
    def partly(points: Tensor) -> Tensor:
        nonlocal told
        fitness = sphere(points)
        fitness[points[:, 0] > 0.5] = torch.nan
        fitness[points[:, 0] < -0.5] = -torch.inf
        told += int((~torch.isfinite(fitness)).sum())
        return fitness

    for decisions in ("host", "device"):
        told = 0
        optimizer = build([tensor(0.4, 1.0)], seed=0, init_std=0.5, decisions=decisions)
        for _ in range(8):
            optimizer.step(partly)
        assert math.isfinite(optimizer.best_fitness)
        assert abs(optimizer.best_params[0]) <= 0.5
        assert optimizer.status["nonfinite_count"] == told > 0


def test_a_noisy_closure_yields_no_lucky_best(build: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = tensor(0.3, 0.3)

    def closure() -> float:
        return judged(parameter.square().sum()) + torch.randn((), generator=generator).item()

    optimizer = build([parameter], seed=0)
    excess = []
    for _ in range(30):
        optimizer.step(closure)
        excess.append(optimizer.best_fitness - optimizer.best_params.square().sum().item())
    assert abs(sum(excess) / len(excess)) < 0.6  # the luckiest of 10 is 1.5 below


def test_a_new_batch_is_judged_anew(build: Callable[..., Any]) -> None:
    parameter = tensor(2.0, 2.0)
    optimizer = build([parameter], seed=0)
    for _ in range(10):
        optimizer.step(lambda: judged(parameter.square().sum()))
    assert optimizer.best_fitness < 8
    optimizer.step(lambda: judged(parameter.square().sum()) + 100)
    assert optimizer.best_fitness >= 100
    if optimizer.fitness.shape:
        assert (optimizer.fitness >= 100).all()


@pytest.mark.parametrize("budget", [1, 9, 10, 11, 37, 200])
def test_the_budget_is_kept_to_the_last_evaluation(build: Callable[..., Any], budget: int) -> None:
    parameter = tensor(1.0, 1.0)
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        return judged(parameter.square().sum())

    optimizer = build([parameter], seed=0, max_evaluations=budget)
    for _ in range(30):
        optimizer.step(closure)
    assert calls == optimizer.evaluations == budget or optimizer.stop_reason != "max_evaluations"
    assert calls <= budget
    assert optimizer.should_stop()
    optimizer = build([parameter], seed=0, max_evaluations=budget)
    told = 0
    while not optimizer.should_stop():
        points = optimizer.ask()
        told += len(points)
        optimizer.tell(sphere(points), torch.zeros_like(points))
    assert told <= budget
    assert optimizer.stop_reason != "max_evaluations" or told == budget


def test_early_stopping_stops(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0)], early_stopping=True, convergence_patience=3, seed=0)
    calls = 0

    @batched(flat=True)
    def flat(points: Tensor) -> Tensor:
        nonlocal calls
        calls += len(points)
        return points.sum(1) * 0 + 1

    for _ in range(10):
        optimizer.step(flat)
    assert optimizer.stop_reason == "converged"
    before = calls
    assert optimizer.step(flat) == 1.0
    assert calls == before


def test_a_callback_sees_the_status_and_may_stop(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, 1.0)], seed=0)
    seen: list[float] = []

    def callback(status: Any) -> bool:
        seen.append(status["best_fitness"])
        return len(seen) == 2

    for _ in range(4):
        optimizer.step(sphere, callback=callback)
    assert len(seen) == 2
    assert optimizer.stop_reason == "callback"


def test_steps_without_a_closure_take_the_objective_that_was_set(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, 1.0)], seed=0)
    with pytest.raises(ValueError, match="set_objective"):
        optimizer.step()
    optimizer.set_objective(sphere)
    first = optimizer.step()
    for _ in range(20):
        optimizer.step()
    assert optimizer.best_fitness < first


def test_the_global_generator_is_neither_read_nor_set(build: Callable[..., Any]) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    optimizer = build([tensor(1.0, 1.0)], seed=3)
    for _ in range(3):
        optimizer.step(sphere)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_repeats_a_search_and_others_differ(build: Callable[..., Any]) -> None:
    def run(**kwargs: Any) -> Tensor:
        optimizer = build([tensor(1.0, 1.0)], **kwargs)
        for _ in range(3):
            optimizer.step(sphere)
        return optimizer.population

    assert torch.equal(run(seed=1), run(seed=1))
    assert torch.equal(run(seed=1), run(generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(run(seed=1), run(seed=2))
    assert not torch.equal(run(), run())


def test_status_is_lazy_and_one_copy(build: Callable[..., Any]) -> None:
    """On a device: nothing is read while nobody listens, and one number's worth of waiting a step when somebody does."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            self.count += name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
            return func(*args, **(kwargs or {}))

    optimizer = build([tensor(1.0, -1.0, 2.0)], seed=0, decisions="device", bounds=(-4.0, 4.0))
    optimizer.step(sphere)
    with Reads() as reads:
        for _ in range(12):
            optimizer.step(sphere)
    assert reads.count == 0
    with Reads() as reads:
        assert optimizer.status["best_fitness"] >= 0
        assert dict(optimizer.status)["population_diversity"] == pytest.approx(optimizer.status["population_diversity"])
    # `tolist` of one stacked tensor: the dispatcher sees one read for each number in it, of memory that is there.
    assert reads.count <= len(optimizer.status)
    measured = []
    original = optimizer.status._measure
    optimizer.status._measure = lambda names: measured.append(names) or original(names)
    optimizer.step(sphere)
    assert not measured
    few = optimizer.status.read("best_fitness", "population_diversity", "unheard of")
    assert few == {"best_fitness": optimizer.best_fitness, "population_diversity": optimizer._compute_diversity()}
    _ = optimizer.status["mean_fitness"], dict(optimizer.status)
    assert optimizer.status.read("best_fitness") == {"best_fitness": optimizer.best_fitness}
    assert measured == [("best_fitness", "population_diversity", "unheard of"), None]


@pytest.mark.parametrize("bounds", [None, (-3.0, 2.5)])
def test_both_ways_to_decide_take_the_same_way(build: Callable[..., Any], bounds: tuple[float, float] | None) -> None:
    """What the host may read saves evaluations, and changes nothing else."""
    ways = []
    for decisions in ("host", "device"):
        optimizer = build(
            [torch.full((5,), 2.0, dtype=torch.float64)],
            population_size=16,
            bounds=bounds,
            init_std=1.0,
            seed=3,
            decisions=decisions,
        )
        for _ in range(45):
            optimizer.step(rastrigin)
        ways.append((optimizer.population, optimizer.fitness, optimizer.best_params, optimizer.evaluations))
    torch.testing.assert_close(ways[0][:3], ways[1][:3], rtol=1e-6, atol=1e-8)
    assert ways[0][3] <= ways[1][3]


def test_diversity_is_the_mean_distance_to_the_centroid(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, -1.0, 2.0)], seed=0)
    optimizer.step(sphere)
    positions = optimizer.population
    expected = (positions - positions.mean(0)).norm(dim=1).mean().item()
    assert optimizer._compute_diversity() == pytest.approx(expected)
    assert optimizer.status["population_diversity"] == pytest.approx(expected)
    assert optimizer.status["population_diversity_normalised"] == pytest.approx(expected / 3**0.5)


def test_hooks_before_a_step_may_hand_over_more(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, -2.0)], seed=0)
    optimizer.register_step_pre_hook(lambda it, args, kwargs: ((*args, *([None] if len(args) == 1 else [])), kwargs))
    while optimizer.status["steps"] < 1:
        optimizer.tell(optimizer.ask().square().sum(1))
    assert optimizer.best_fitness < 5


@pytest.mark.parametrize("number", [numpy.float32("nan"), numpy.float64("nan"), torch.tensor([float("nan")])])
def test_the_loss_is_what_the_step_returned(number: Any) -> None:
    optimizer = make("BFO", [tensor(1.0)], seed=0)
    assert math.isnan(float(optimizer.step(lambda: number)))
    assert math.isnan(optimizer.status["loss"])
    assert optimizer.best_fitness == math.inf
