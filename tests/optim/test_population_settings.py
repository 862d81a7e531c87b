"""What every population optimizer promises, whatever the algorithm: bounds, groups, types and settings, also edited ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.landscapes import sphere
from tests.support.searching import judged, tensor
from tracelet.optim import batched


def test_bounds_hold_at_every_point_that_is_judged(build: Callable[..., Any]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        parameter = nn.Parameter(torch.tensor([0.09, -0.1, 0.0], dtype=dtype))
        outside = 0

        def closure(parameter: nn.Parameter = parameter) -> float:
            nonlocal outside
            value = parameter.detach().double()
            outside += int((value > 0.1 + 1e-8).any() or (value < -0.1 - 1e-8).any())
            return judged((parameter.double() - 1).square().sum())

        optimizer = build([parameter], bounds=(-0.1, 0.1), seed=0)
        for _ in range(10):
            optimizer.step(closure)
        assert not outside
        assert optimizer.best_fitness < 2.7  # nearer to the corner
        assert optimizer.status["bound_hits"] >= 0


def test_groups_are_one_population_with_settings_of_their_own(build: Callable[..., Any]) -> None:
    near, far = tensor(0.0, 0.0), tensor(0.0)
    optimizer = build(
        [{"params": [near], "init_std": 0.001, "bounds": (-0.5, 0.5)}, {"params": [far], "init_std": 5.0}], seed=0
    )
    optimizer.step(sphere)
    assert optimizer.population.shape[1] == 3
    assert len(optimizer.param_groups) == 2
    assert (optimizer.population[:, :2].abs() <= 0.5).all()


def test_frozen_parameters_stay_and_plain_tensors_move(build: Callable[..., Any]) -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    plain = torch.ones(2)
    optimizer = build([frozen, plain], seed=0)
    for _ in range(10):
        optimizer.step(sphere)
    assert torch.equal(frozen, torch.ones(2))
    assert plain.square().sum() < 2
    with pytest.raises(TypeError, match="int64"):
        build([torch.ones(2, dtype=torch.long)]).step(sphere)


def test_low_precision_parameters_are_searched_in_float32(build: Callable[..., Any]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        parameter = nn.Parameter(torch.ones(4, dtype=dtype))
        optimizer = build([parameter], seed=0)

        def closure(parameter: nn.Parameter = parameter) -> Tensor:
            return (parameter - 0.5).square().sum()

        for _ in range(30):
            optimizer.step(closure)
        assert optimizer.population.dtype == torch.float32
        assert parameter.dtype == dtype
        assert optimizer.best_fitness < 0.9
        assert torch.equal(parameter.detach(), optimizer.best_params.to(dtype))


def test_autocast_is_the_users(build: Callable[..., Any]) -> None:
    model = nn.Linear(4, 1)
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    optimizer = build(model.parameters(), seed=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x).float(), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(10)]
    assert losses[-1] <= losses[0]


def test_the_length_of_runs_follows_torchs_schedulers(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, 1.0)], seed=0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    before = optimizer.param_groups[0]["lr"]
    optimizer.step(sphere)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == before / 2


def test_edits_of_defaults_and_of_groups_act(build: Callable[..., Any]) -> None:
    optimizer = build([{"params": [tensor(1.0)]}, {"params": [tensor(1.0)]}], seed=0)
    optimizer.step(sphere)
    optimizer.defaults["max_evaluations"] = optimizer.evaluations + 3
    before = optimizer.evaluations
    optimizer.step(sphere)
    assert optimizer.evaluations == before + 3
    optimizer.param_groups[1]["max_evaluations"] = before + 5
    optimizer.step(sphere)
    assert optimizer.evaluations == before + 5
    assert optimizer.defaults["max_evaluations"] == optimizer.param_groups[0]["max_evaluations"] == before + 5
    optimizer.defaults["population_size"] = 99
    optimizer.defaults["max_evaluations"] = None
    with pytest.raises(ValueError, match="population_size"):
        optimizer.step(sphere)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"populaton_size": 3}, TypeError),
        ({"bounds": (1.0, 1.0)}, ValueError),
        ({"population_size": 0}, ValueError),
        ({"max_evaluations": 0}, ValueError),
        ({"reevaluate": "often"}, ValueError),
        ({"decisions": "gpu"}, ValueError),
        ({"shard": "model"}, ValueError),
        ({"init": "zero"}, ValueError),
    ],
)
def test_what_makes_no_sense_is_refused(
    build: Callable[..., Any], wrong: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = wrong
    with pytest.raises(error, match=name):
        build([tensor(1.0)], **wrong)


def test_wrong_answers_are_refused(build: Callable[..., Any]) -> None:
    parameter = tensor(1.0, 2.0)

    def gradients_only() -> None:
        parameter.square().sum().backward()

    def vector() -> Tensor:
        gradients_only()
        return parameter.square()

    with pytest.raises(TypeError, match="None"):
        build([parameter]).step(gradients_only)
    with pytest.raises(ValueError, match="one number"):
        build([parameter]).step(vector)
    with pytest.raises(ValueError, match=r"shape \(\d+,\)"):
        build([parameter]).step(batched(flat=True)(lambda points: points))

    def doubled(points: Tensor) -> Tensor:
        with torch.no_grad():
            points.mul_(2)
        return points.sum(1)

    with pytest.raises(RuntimeError, match="copies"):
        build([parameter]).step(batched(flat=True)(doubled))
    optimizer = build([parameter])
    with pytest.raises(RuntimeError, match="ask"):
        optimizer.tell(torch.zeros(10))
    optimizer.ask()
    with pytest.raises(ValueError, match="were asked"):
        optimizer.tell(torch.zeros(3))


@pytest.mark.parametrize("where", ["defaults", "groups"])
def test_edited_bounds_hold_from_the_next_step_on(where: str, build: Callable[..., Any]) -> None:
    seen = []

    @batched(flat=True)
    def objective(points: Tensor) -> Tensor:
        seen.append(points.clone())
        return points.square().sum(1)

    optimizer = build([tensor(3.0, -3.0)], seed=0, bounds=(-4.0, 4.0))
    for _ in range(2):
        optimizer.step(objective)
    if where == "defaults":
        optimizer.defaults["bounds"] = (1.0, 2.0)
    else:
        optimizer.param_groups[0]["bounds"] = (1.0, 2.0)
    seen.clear()
    for _ in range(3):
        loss = optimizer.step(objective)
    points = torch.cat(seen)
    assert points.min() >= 1.0
    assert points.max() <= 2.0
    assert loss.item() == optimizer.best_fitness == pytest.approx(optimizer.best_params.square().sum().item())
    optimizer.param_groups[0]["bounds"] = (2.0, 1.0)
    with pytest.raises(ValueError, match="low < high"):
        optimizer.step(objective)


def test_wider_bounds_keep_the_incumbent(build: Callable[..., Any]) -> None:
    optimizer = build([tensor(1.0, -2.0)], seed=0, bounds=(-4.0, 4.0))
    for _ in range(8):
        optimizer.step(sphere)
    before = optimizer.best_fitness
    optimizer.defaults["bounds"] = (-5.0, 5.0)
    optimizer.step(sphere)
    assert optimizer.best_fitness <= before


def test_bounds_that_go_with_a_new_batch_leave_no_old_fitness(
    build: Callable[..., Any],
) -> None:
    """Both at once: the positions are judged on the new batch, as without the edit."""

    def batch(at: float) -> Callable[[], Any]:
        return batched(flat=True)(lambda points: (points - at).square().sum(1))

    def evaluations(edit: bool) -> int:
        optimizer = build([tensor(1.0, -2.0)], seed=0, bounds=(-1e6, 1e6), init_std=0.1, decisions="device")
        for number in range(3):
            if edit and number == 2:
                optimizer.defaults["bounds"] = None
            optimizer.step(batch(float(number)))
        return int(optimizer.evaluations)

    assert evaluations(True) == evaluations(False)
