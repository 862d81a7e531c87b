"""What the steps of population optimizers leave in a run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.tensorboard import SummaryWriter

from tests.support import runs
from tests.support.landscapes import sphere
from tests.support.optimizing import POPULATIONS, bfo, found, parameter, params
from tests.support.spool_points import records_of
from tracelet.core.metrics import MetricType, Params
from tracelet.optim import BFO, AdaptiveBFO

THREE = ("best_fitness", "population_diversity", "loss")


@pytest.mark.parametrize("kind", POPULATIONS)
def test_every_step_is_recorded_with_no_line_in_the_script(kind: Any, home: Path) -> None:
    seen = []
    with runs.running(home):
        optimizer = kind([parameter()], seed=0)
        for _ in range(5):
            loss = optimizer.step(sphere)
            seen.append((float(loss), optimizer.best_fitness, optimizer._compute_diversity(), optimizer.evaluations))
    by_name = found(home)
    prefix = f"optim/{kind.__name__}"
    assert set(by_name) == {f"{prefix}/{name}" for name in THREE}
    losses, best, diversity = (by_name[f"{prefix}/{name}"] for name in ("loss", "best_fitness", "population_diversity"))
    for each in (losses, best, diversity):
        assert [point.step for point in each] == [1, 2, 3, 4, 5]
    assert [point.value for point in losses] == [loss for loss, *_ in seen]
    assert [point.value for point in best] == [value for _, value, *_ in seen]
    assert [point.value for point in diversity] == [value for *_, value, _ in seen]
    assert [point.metadata["evaluations"] for point in best] == [count for *_, count in seen]
    assert {(each[0].type, each[0].type_inferred) for each in (losses, best, diversity)} == {
        (MetricType.LOSS.value, False),
        (MetricType.FITNESS.value, False),
        (MetricType.DIVERSITY.value, False),
    }
    assert {point.metadata["population_size"] for point in losses} <= {len(optimizer.population)} | set(range(50))


def test_what_the_optimizer_is_and_was_set_to_are_parameters(home: Path) -> None:
    with runs.running(home):
        groups = [
            {"params": [parameter()], "bounds": (-1.0, 1.0)},
            {"params": [nn.Parameter(torch.zeros(2))], "lr": 0.5},
        ]
        optimizer = BFO(groups, population_size=8, chemotaxis_steps=7)
        optimizer.step(lambda: 1.0)
        optimizer.step(lambda: 1.0)
    assert len(records_of(Params, home)) == 1
    said = {name.removeprefix("optim/BFO/"): value for name, value in params(home).items()}
    assert said["class"] == "tracelet.optim.bfo.BFO"
    assert (said["population_size"], said["chem_steps"], said["dimensions"], said["lr"]) == (8, 7, 5, 1.0)
    groups_said = {name: value for name, value in said.items() if name.startswith("group.")}
    assert groups_said == {
        "group.0/dimensions": 3,
        "group.0/bounds": "(-1.0, 1.0)",
        "group.1/dimensions": 2,
        "group.1/lr": 0.5,
    }


def test_a_subclass_that_calls_the_step_above_is_recorded_once(home: Path) -> None:
    """torch's hook fires for both, once a plain optimizer was made in the process."""
    bfo().step(sphere)

    class MonitoredBFO(BFO):
        def step(self, closure: Any = None, **how: Any) -> Any:
            return super().step(closure, **how)

    fired = []
    handle = torch_optimizer.register_optimizer_step_post_hook(lambda *_: fired.append(1))
    try:
        with runs.running(home):
            optimizer = bfo(MonitoredBFO)
            for _ in range(3):
                optimizer.step(sphere)
    finally:
        handle.remove()
    assert len(fired) == 6
    assert [point.step for point in found(home)["optim/MonitoredBFO/loss"]] == [1, 2, 3]


def test_tags_that_the_users_code_writes_are_the_users(home: Path, tmp_path: Path) -> None:
    """Those of `MonitoredBFO` of the optimizers' documents, and even our own."""
    writer = SummaryWriter(str(tmp_path))

    class MonitoredBFO(BFO):
        def step(self, closure: Any = None, **how: Any) -> Any:
            loss = super().step(closure, **how)
            writer.add_scalar("BFO/best_fitness", self.best_fitness, int(self.status["steps"]) - 1)
            writer.add_scalar("optim/MonitoredBFO/loss", -1.0, int(self.status["steps"]) - 1)
            return loss

    with runs.running(home):
        optimizer = bfo(MonitoredBFO)
        for _ in range(3):
            optimizer.step(sphere)
    writer.close()
    by_name = found(home)
    assert [point.step for point in by_name["BFO/best_fitness"]] == [0, 1, 2]
    of_the_user = [name for name, each in by_name.items() if {point.value for point in each} == {-1.0}]
    assert len(of_the_user) == 1
    (ours,) = (name for name in by_name if name.startswith("optim/MonitoredBFO/loss") and name not in of_the_user)
    assert [point.step for point in by_name[ours]] == [1, 2, 3]
    assert len(by_name) == 5


def test_a_subclass_may_count_steps_of_its_own(home: Path) -> None:
    class Counting(BFO):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.steps = 100

        def step(self, closure: Any = None, **how: Any) -> Any:
            self.steps += 1
            return super().step(closure, **how)

    with runs.running(home):
        optimizer = bfo(Counting)
        optimizer.step(sphere)
        optimizer.step(sphere)
    assert optimizer.steps == 102
    assert [point.step for point in found(home)["optim/Counting/loss"]] == [1, 2]


def test_asked_and_told(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo(AdaptiveBFO)
        while optimizer.status["steps"] < 3:
            optimizer.tell(optimizer.ask().square().sum(1))
    best = found(home)["optim/AdaptiveBFO/best_fitness"]
    assert [point.step for point in best] == [1, 2, 3]
    assert best[-1].value == optimizer.best_fitness
    assert [point.value for point in found(home)["optim/AdaptiveBFO/loss"]] == [point.value for point in best]


def test_a_search_that_is_over_records_nothing_more(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo(max_evaluations=30)
        for _ in range(10):
            optimizer.step(sphere)
        assert optimizer.should_stop()
    steps = [point.step for point in found(home)["optim/BFO/loss"]]
    assert steps == list(range(1, int(optimizer.status["steps"]) + 1))
    assert len(steps) < 10


def test_a_search_that_goes_on_from_a_checkpoint_counts_on(home: Path) -> None:
    before = bfo()
    for _ in range(4):
        before.step(sphere)
    with runs.running(home):
        optimizer = bfo()
        optimizer.load_state_dict(before.state_dict())
        optimizer.step(sphere)
    assert [point.step for point in found(home)["optim/BFO/loss"]] == [5]


def test_a_search_that_was_over_before_the_run_leaves_nothing(home: Path) -> None:
    optimizer = bfo(max_evaluations=30)
    while not optimizer.should_stop():
        optimizer.step(sphere)
    with runs.running(home):
        optimizer.step(sphere)
    assert found(home) == {}
    assert params(home) == {}


def test_every_try_is_recorded_when_steps_are_taken_back(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo()
        optimizer.step(sphere)
        before = copy.deepcopy(optimizer.state_dict())
        for _ in range(3):
            optimizer.load_state_dict(before)
            optimizer.step(sphere)
    assert [point.step for point in found(home)["optim/BFO/loss"]] == [1, 2, 2, 2]


def test_a_step_whose_exception_a_subclass_catches_is_none(home: Path) -> None:
    class Patient(BFO):
        def step(self, closure: Any = None, **how: Any) -> Any:
            try:
                return super().step(closure, **how)
            except ZeroDivisionError:
                return None

    with runs.running(home):
        optimizer = bfo(Patient)
        optimizer.step(sphere)
        assert optimizer.step(lambda: 1 / 0) is None
    assert [point.step for point in found(home)["optim/Patient/loss"]] == [1]
