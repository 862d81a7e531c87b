"""What every population optimizer promises, whatever the algorithm: searches that go on, and copies."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.landscapes import rastrigin, sphere
from tests.support.searching import tensor
from tracelet.optim import batched


@pytest.mark.parametrize("moment", ["between steps", "before the first", "asked"])
def test_a_checkpoint_goes_on_bit_for_bit(build: Callable[..., Any], moment: str) -> None:
    def fresh() -> tuple[nn.Parameter, Any]:
        parameter = tensor(2.0, -1.0, 0.5)
        return parameter, build([parameter], seed=4, bounds=(-5.12, 5.12), max_evaluations=100_000)

    _, optimizer = fresh()
    if moment != "before the first":
        for _ in range(12):
            optimizer.step(rastrigin)
    if moment == "asked":
        asked = optimizer.ask()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    parameter, resumed = fresh()
    resumed._seed = optimizer._seed
    resumed.load_state_dict(torch.load(file))
    if moment == "asked":
        assert torch.equal(resumed.ask(), asked)
    for _ in range(15):
        optimizer.step(rastrigin)
        resumed.step(rastrigin)
    assert torch.equal(optimizer.population, resumed.population)
    assert torch.equal(optimizer.best_params, resumed.best_params)
    assert torch.equal(parameter.detach(), resumed.best_params)
    assert dict(resumed.status) == pytest.approx(dict(optimizer.status), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_searches_on_by_itself(build: Callable[..., Any], copied: Callable[[Any], Any]) -> None:
    optimizer = build([tensor(2.0, -1.0, 0.5)], seed=4)
    fresh = copied(optimizer)
    for each in (optimizer, fresh):
        for _ in range(3):
            each.step(rastrigin)
    assert torch.equal(optimizer.population, fresh.population)
    other = copied(optimizer)
    before = optimizer.population.clone()
    for _ in range(3):
        other.step(rastrigin)
    assert torch.equal(optimizer.population, before)
    for _ in range(3):
        optimizer.step(rastrigin)
    assert torch.equal(optimizer.population, other.population)


def test_a_checkpoint_of_something_else_is_refused(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, 2.0)])
    optimizer.step(sphere)
    with pytest.raises(ValueError, match="dimensions"):
        build([tensor(1.0, 2.0, 3.0)]).load_state_dict(optimizer.state_dict())


def test_a_search_over_batches_goes_on_from_a_checkpoint_bit_for_bit(build: Callable[..., Any]) -> None:
    """The first step after it has another batch than the last one before: that is known of the steps before."""

    def batch(at: float) -> Callable[[], Any]:
        return batched(flat=True)(lambda points: (points - at).square().sum(1))

    optimizer = build([tensor(1.0, -1.0)], seed=0)
    for number in range(3):
        optimizer.step(batch(float(number)))
    resumed = build([tensor(0.0, 0.0)], seed=5)
    resumed.load_state_dict(optimizer.state_dict())
    for number in range(3, 5):
        assert optimizer.step(batch(float(number))) == resumed.step(batch(float(number)))
    assert torch.equal(resumed.population, optimizer.population)
    assert resumed.evaluations == optimizer.evaluations


def test_bounds_that_were_edited_before_a_checkpoint_hold_after_it(build: Callable[..., Any]) -> None:
    seen = []

    @batched(flat=True)
    def objective(points: Tensor) -> Tensor:
        seen.append(points.clone())
        return points.square().sum(1)

    optimizer = build([tensor(1.0, -2.0)], seed=0, bounds=(-4.0, 4.0))
    optimizer.step(objective)
    optimizer.param_groups[0]["bounds"] = (3.0, 4.0)
    resumed = build([tensor(3.0, 3.0)], seed=1, bounds=(3.0, 4.0))
    resumed.load_state_dict(optimizer.state_dict())
    for each in (copy.deepcopy(optimizer), resumed):
        seen.clear()
        each.step(objective)
        assert torch.cat(seen).min() >= 3.0
        assert each.best_params.min() >= 3.0


def test_a_checkpoint_that_is_refused_leaves_the_search_as_it_was(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, -2.0)], seed=0)
    for _ in range(2):
        optimizer.step(sphere)
    before, odd = optimizer.state_dict(), optimizer.state_dict()
    del odd["state"]["population"]["state"]["positions"]
    with pytest.raises(ValueError, match="positions"):
        optimizer.load_state_dict(odd)
    assert optimizer.status["steps"] == 2
    assert torch.equal(optimizer.population, before["state"]["population"]["state"]["positions"])


def test_a_checkpoint_of_before_a_field_had_come_is_read(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, -2.0)], seed=0)
    optimizer.step(sphere)
    older = optimizer.state_dict()
    del older["state"]["population"]["state"]["batches"], older["state"]["population"]["bounds"]
    resumed = build([tensor(0.0, 0.0)], seed=1)
    resumed.load_state_dict(older)
    assert torch.equal(torch.as_tensor(resumed.step(sphere)), torch.as_tensor(optimizer.step(sphere)))
