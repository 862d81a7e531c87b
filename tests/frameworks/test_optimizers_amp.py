"""GradScalers: the loss is not the scaled one, and skipped steps are counted as such."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import runs
from tests.support.optimizing import found, series


def scaled(optimizer: Any, weight: Any, factors: list[float], scaler: Any, parts: int = 1) -> None:
    """Steps on `factor * weight`, whose gradient is the factor."""
    for factor in factors:
        optimizer.zero_grad()
        for _ in range(parts):
            loss = (weight * factor).sum()
            (scaler.scale(loss) if parts == 1 else scaler.scale(loss) / parts).backward()
        scaler.step(optimizer)
        scaler.update()


def test_loss_norm_scale_and_skipped_steps(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home, optimizer_every=1) as run:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaled(torch.optim.SGD([weight], lr=0.0), weight, [2.0, math.inf, math.inf, 3.0, 4.0], scaler)
        assert run._frameworks["optimizers"].updates == {"SGD": 3}
    by_name = {name.removeprefix("optim/SGD/"): each for name, each in series(home).items()}
    assert by_name["loss"] == [(1, 2.0), (2, 3.0), (3, 4.0)]
    assert by_name["grad_norm"] == [(1, 2.0), (2, 3.0), (3, 4.0)]
    assert by_name["amp_scale"] == [(1, 1024.0), (2, 256.0), (3, 256.0)]
    assert by_name["skipped_steps"] == [(1, 1.0), (1, 2.0)]
    assert {tuple(point.metadata) for point in found(home)["optim/SGD/loss"]} == {()}


def test_every_step_may_be_skipped(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home) as run:
        scaler = torch.amp.GradScaler("cpu")
        scaled(torch.optim.SGD([weight], lr=0.1), weight, [math.nan, math.nan], scaler)
        assert run._frameworks["optimizers"].updates == {"SGD": 0}
    assert series(home) == {"optim/SGD/skipped_steps": [(0, 1.0), (0, 2.0)]}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_fused_optimizers_skip_by_themselves(kind: Any, home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home, optimizer_every=1):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        scaled(kind([weight], lr=0.0, fused=True), weight, [2.0, math.inf, 3.0], scaler)
    by_name = series(home)
    assert by_name[f"optim/{kind.__name__}/grad_norm"] == [(1, 2.0), (2, math.inf), (3, 3.0)]
    assert by_name[f"optim/{kind.__name__}/loss"] == [(1, 2.0), (2, math.inf), (3, 3.0)]
    assert by_name.get(f"optim/{kind.__name__}/skipped_steps") == ([(2, 1.0)] if kind is torch.optim.Adam else None)


def test_a_scaled_loss_that_is_divided_is_unscaled_too(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home, optimizer_every=1):
        scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
        scaled(torch.optim.SGD([weight], lr=0.0), weight, [8.0], scaler, parts=4)
    (point,) = found(home)["optim/SGD/loss"]
    assert (point.value, point.metadata) == (2.0, {"backward_calls": 4})


def test_unscaled_for_clipping(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home, optimizer_every=1):
        scaler, sgd = torch.amp.GradScaler("cpu", init_scale=512.0), torch.optim.SGD([weight], lr=0.0)
        losses = scaler.scale([(weight * 8.0).sum(), (weight * 2.0).sum()])
        losses[0].backward()
        scaler.unscale_(sgd)
        nn.utils.clip_grad_norm_([weight], 1.0)
        scaler.step(sgd)
    by_name = found(home)
    assert [point.value for point in by_name["optim/SGD/loss"]] == [8.0]
    assert [(point.value, point.metadata) for point in by_name["optim/SGD/grad_norm"]] == [(8.0, {"clipped": True})]


def test_a_scaler_that_is_off_is_none(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home, optimizer_every=1) as run:
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        scaled(torch.optim.SGD([weight], lr=0.0), weight, [2.0, math.inf], scaler)
        assert run._frameworks["optimizers"].updates == {"SGD": 2}
    assert {name.removeprefix("optim/SGD/") for name in series(home)} == {"lr/0", "weight_decay/0", "loss", "grad_norm"}


def test_bf16_needs_no_scaler(home: Path) -> None:
    model = nn.Linear(2, 1)
    with runs.running(home, optimizer_every=1):
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.ones(4, 2)).square().mean()
        loss.backward()
        sgd.step()
    assert series(home)["optim/SGD/loss"] == [(1, loss.item())]


def test_what_the_users_code_gets_is_the_same(home: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with runs.running(home):
        scaler, sgd = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], lr=0.1)
        with pytest.raises(AssertionError, match="_scale is None"):
            scaler.step(sgd)
        with pytest.raises(ValueError, match="must be a Tensor"):
            scaler.scale(1.0)
        scaler.scale((weight * 2).sum()).backward()
        with pytest.raises(RuntimeError, match="Closure use"):
            scaler.step(sgd, closure=lambda: 1.0)
        assert scaler.step(sgd) is None
        scaler.update()
        torch.save(scaler.state_dict(), home / "scaler.pt")
    assert set(torch.load(home / "scaler.pt")) == set(scaler.state_dict())
