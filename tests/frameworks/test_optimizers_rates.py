"""Ordinary optimizers: rates of each group, settings, and the steps at which they are recorded."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from tests.support import runs
from tests.support.optimizing import found, parameter, params, series
from tests.support.spool_points import points
from tracelet.core.metrics import MetricType


def stepped(optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    """Steps on gradients of ones."""
    for _ in range(times):
        for group in optimizer.param_groups:
            for each in group["params"]:
                each.grad = torch.ones_like(each)
        optimizer.step()


def test_every_fiftieth_step_is_recorded_with_no_line_in_the_script(home: Path) -> None:
    weight = parameter()
    losses = []
    with runs.running(home) as run:
        sgd = torch.optim.SGD([weight], lr=1e-3, momentum=0.9, weight_decay=0.25)
        for _ in range(102):
            sgd.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            losses.append((loss.item(), weight.grad.norm().item()))  # type: ignore[union-attr]
            sgd.step()
        assert run._frameworks["optimizers"].updates == {"SGD": 102}
    by_name = found(home)
    assert series(home) == {
        "optim/SGD/lr/0": [(1, 1e-3)],
        "optim/SGD/weight_decay/0": [(1, 0.25)],
        "optim/SGD/loss": [(step, losses[step - 1][0]) for step in (1, 51, 101)],
        "optim/SGD/grad_norm": [(step, pytest.approx(losses[step - 1][1], rel=1e-6)) for step in (1, 51, 101)],
    }
    assert {name.split("/")[2]: (each[0].type, each[0].type_inferred) for name, each in by_name.items()} == {
        "lr": (MetricType.LEARNING_RATE.value, False),
        "weight_decay": (MetricType.SCALAR.value, False),
        "loss": (MetricType.LOSS.value, False),
        "grad_norm": (MetricType.GRADIENT.value, False),
    }
    assert [point.metadata for point in by_name["optim/SGD/grad_norm"]] == [{}] * 3
    assert [point.metadata for point in by_name["optim/SGD/loss"]] == [{}] * 3


def test_rates_are_recorded_when_they_change(home: Path) -> None:
    with runs.running(home):
        adam = torch.optim.AdamW([parameter()], lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(adam, step_size=3, gamma=0.5)
        for _ in range(7):
            stepped(adam)
            schedule.step()
        adam.param_groups[0]["weight_decay"] = 0.5
        stepped(adam, 2)
    by_name = series(home)
    assert by_name["optim/AdamW/lr/0"] == [(1, 0.1), (4, 0.05), (7, 0.025)]
    assert by_name["optim/AdamW/weight_decay/0"] == [(1, 0.01), (8, 0.5)]


def test_rates_in_tensors_are_read_with_the_records(home: Path) -> None:
    with runs.running(home, optimizer_every=2):
        rate = torch.tensor(0.5)
        sgd = torch.optim.SGD([parameter()], lr=rate)
        stepped(sgd, 4)
        rate.fill_(0.25)
        stepped(sgd, 2)
        sgd.param_groups[0]["lr"] = torch.tensor(0.125, dtype=torch.float64)
        stepped(sgd, 2)
    assert series(home)["optim/SGD/lr/0"] == [(1, 0.5), (5, 0.25), (7, 0.125)]
    assert params(home)["optim/SGD/lr"] == 0.5


def test_groups_have_their_names_or_numbers(home: Path) -> None:
    def group(lr: float, **more: Any) -> dict[str, Any]:
        return {"params": [parameter()], "lr": lr, **more}

    with runs.running(home):
        sgd = torch.optim.SGD([group(0.1, name="backbone"), group(0.2, name="head", weight_decay=0.5), group(0.3)])
        stepped(sgd)
        sgd.add_param_group(group(0.4, name="late"))
        stepped(sgd)
        twins = torch.optim.Adam([group(0.1, name="a"), group(0.2, name="a"), group(0.3, name=7), group(0.4, name=" ")])
        stepped(twins)
    rates = {name.removeprefix("optim/"): each for name, each in series(home).items() if "/lr/" in name}
    assert rates == {
        "SGD/lr/backbone": [(1, 0.1)],
        "SGD/lr/head": [(1, 0.2)],
        "SGD/lr/2": [(1, 0.3)],
        "SGD/lr/late": [(2, 0.4)],
        **{f"Adam/lr/{number}": [(1, (number + 1) / 10)] for number in range(4)},
    }
    said = {name: value for name, value in params(home).items() if name.startswith("optim/SGD/group.")}
    assert said == {
        "optim/SGD/group.0/dimensions": 3,
        "optim/SGD/group.0/lr": 0.1,
        "optim/SGD/group.1/dimensions": 3,
        "optim/SGD/group.1/lr": 0.2,
        "optim/SGD/group.1/weight_decay": 0.5,
        "optim/SGD/group.2/dimensions": 3,
        "optim/SGD/group.2/lr": 0.3,
    }


def test_class_and_defaults_are_parameters_of_the_run(home: Path) -> None:
    with runs.running(home):
        stepped(torch.optim.Adam([parameter()], lr=0.5, betas=(0.8, 0.9)))
    said = params(home)
    assert (said["optim/Adam/class"], said["optim/Adam/betas"]) == ("torch.optim.adam.Adam", "(0.8, 0.9)")
    assert (said["optim/Adam/lr"], said["optim/Adam/dimensions"]) == (0.5, 3)
    assert not [name for name in said if "group" in name]


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": True}])
def test_what_comes_from_a_checkpoint_counts_on(options: dict[str, Any], home: Path) -> None:
    if options.get("capturable"):
        pytest.importorskip("torch", minversion="2.2")
        options = {"foreach": False}
    before = torch.optim.Adam([parameter()], **options)
    stepped(before, 7)
    saved = before.state_dict()
    with runs.running(home, optimizer_every=5) as run:
        adam = torch.optim.Adam([parameter()], **options)
        adam.load_state_dict(saved)
        stepped(adam, 5)
        assert run._frameworks["optimizers"].updates == {"Adam": 12}
    assert [step for step, _ in series(home)["optim/Adam/grad_norm"]] == [11]
    assert [step for step, _ in series(home)["optim/Adam/lr/0"]] == [8]


def test_a_search_in_the_middle_of_training_counts_from_its_own_state(home: Path) -> None:
    sgd, adam = torch.optim.SGD([parameter()], lr=0.1), torch.optim.Adam([parameter()])
    stepped(sgd, 3)
    stepped(adam, 3)
    with runs.running(home) as run:
        stepped(sgd)
        stepped(adam)
        assert run._frameworks["optimizers"].updates == {"SGD": 1, "Adam": 4}  # SGD keeps no count


def test_optimizers_pickle_and_copy_as_without_us(home: Path) -> None:
    def trained() -> list[Any]:
        weight = nn.Parameter(torch.ones(2))
        adam = torch.optim.Adam([weight], lr=0.1)
        for number in range(4):
            adam.zero_grad()
            weight.square().sum().backward()
            adam.step()
            if number == 1:
                adam = copy.deepcopy(adam)
                weight = adam.param_groups[0]["params"][0]
        again = pickle.loads(pickle.dumps(adam))
        stepped(again)
        assert set(vars(again)) == set(vars(adam))
        (moments,) = again.state_dict()["state"].values()
        return [*(each.tolist() for each in moments.values()), again.param_groups[0]["params"][0].tolist()]

    expected = trained()
    with runs.running(home, optimizer_every=1):
        assert trained() == expected


def test_switched_off_nothing_is_hooked_or_patched(home: Path) -> None:
    places = (torch.autograd, torch.optim.Optimizer, torch.amp.GradScaler, torch.nn.utils)
    before = [dict(vars(place)) for place in places]
    with runs.running(home, optimizer_every=0):
        assert [dict(vars(place)) for place in places] == before
        assert not torch_optimizer._global_optimizer_pre_hooks
        assert not torch_optimizer._global_optimizer_post_hooks
        stepped(torch.optim.SGD([parameter()], lr=0.1))
    assert points(home) == []


def test_a_run_that_is_switched_off_beside_one_that_is_not(home: Path) -> None:
    with runs.running(home) as recorded:
        stepped(torch.optim.SGD([parameter()], lr=0.1))
        with runs.running(home, optimizer_every=0) as silent:
            stepped(torch.optim.SGD([parameter()], lr=0.1))
    assert found(home, silent.id) == {}
    assert set(found(home, recorded.id)) == {f"optim/SGD/{name}" for name in ("lr/0", "weight_decay/0", "grad_norm")}


def test_lazy_modules_and_odd_rates(home: Path) -> None:
    with runs.running(home):
        lazy = nn.LazyLinear(1)
        sgd = torch.optim.SGD(lazy.parameters(), lr=0.1)
        lazy(torch.ones(1, 2)).sum().backward()
        sgd.param_groups[0]["lr"] = float("nan")
        sgd.step()
        sgd.param_groups[0]["lr"] = float("inf")
        sgd.step()
        sgd.param_groups[0]["weight_decay"] = None
        sgd.param_groups[0]["lr"] = "fast"
        with pytest.raises(TypeError):
            sgd.step()
    rates = series(home)["optim/SGD/lr/0"]
    assert [step for step, _ in rates] == [1, 2]
    assert (rates[0][1] != rates[0][1], rates[1][1]) == (True, float("inf"))


def test_reading_stops_and_begins_with_the_framework(home: Path) -> None:
    with runs.running(home, optimizer_every=1) as run:
        sgd = torch.optim.SGD([parameter()], lr=0.1)
        stepped(sgd)
        run._frameworks["optimizers"].stop_tracking()
        stepped(sgd)
        run._frameworks["optimizers"].start_tracking()
        stepped(sgd)
        assert run._frameworks["optimizers"].updates == {"SGD": 2}
