"""What optimizers are called in a run, and in which run."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import runs
from tests.support.landscapes import sphere
from tests.support.optimizing import bfo, found, parameter, params
from tests.support.spool_points import records_of
from tracelet.core.metrics import Media, Params
from tracelet.optim import BFO, AdaptiveBFO

THREE = ("best_fitness", "population_diversity", "loss")


# -- names


def test_several_of_a_class_have_numbers(home: Path) -> None:
    with runs.running(home):
        first, second, other = bfo(), bfo(), bfo(AdaptiveBFO)
        for optimizer in (second, first, other):
            optimizer.step(sphere)
    assert {name for name in found(home) if name.endswith("/loss")} == {
        "optim/BFO.0/loss",
        "optim/BFO.1/loss",
        "optim/AdaptiveBFO/loss",
    }
    assert found(home)["optim/BFO.0/loss"][0].value == first.best_fitness


def test_a_second_one_that_comes_later(home: Path) -> None:
    with runs.running(home):
        first = bfo()
        first.step(sphere)
        second = bfo()
        second.step(sphere)
        first.step(sphere)
    by_name = found(home)
    assert [point.step for point in by_name["optim/BFO/loss"]] == [1, 2]
    assert [point.step for point in by_name["optim/BFO.1/loss"]] == [1]


def test_one_that_is_gone_before_it_stepped_does_not_count(home: Path) -> None:
    with runs.running(home):
        bfo()
        gc.collect()  # its status and it know each other
        optimizer = bfo()
        optimizer.step(sphere)
    assert [name for name in found(home) if name.endswith("/loss")] == ["optim/BFO/loss"]


def test_modules_give_their_names(home: Path) -> None:
    model = nn.ModuleDict({"generator": nn.Linear(2, 1), "discriminator": nn.Linear(2, 1)})
    with runs.running(home):
        optimizers = [
            BFO([(name, each) for name, each in model.named_parameters() if name.startswith(part)], population_size=4)
            for part in model
        ]
        for optimizer in optimizers:
            optimizer.step(lambda: 1.0)
    assert {name for name in found(home) if name.endswith("/loss")} == {
        "optim/generator.BFO/loss",
        "optim/discriminator.BFO/loss",
    }


def test_a_copy_is_another_one(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo()
        optimizer.step(sphere)
        copied = copy.deepcopy(optimizer)
        copied.step(sphere)
    by_name = found(home)
    assert [point.step for point in by_name["optim/BFO/loss"]] == [1]
    assert [point.step for point in by_name["optim/BFO.1/loss"]] == [2]


# -- runs


def test_trials_in_threads_keep_theirs(home: Path) -> None:
    ids: dict[int, str] = {}

    def trial(number: int) -> None:
        with runs.running(home) as run:
            ids[number] = run.id
            optimizer = bfo(init_std=0.1 * (number + 1))
            for _ in range(number + 1):
                optimizer.step(sphere)
            meeting.wait(20)

    meeting = threading.Barrier(3)
    threads = [threading.Thread(target=trial, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(3):
        by_name = found(home, ids[number])
        assert [point.step for point in by_name["optim/BFO/loss"]] == list(range(1, number + 2))


def test_an_optimizer_that_two_runs_see(home: Path) -> None:
    optimizer = bfo()
    with runs.running(home) as first:
        optimizer.step(sphere)
    with runs.running(home) as second:
        optimizer.step(sphere)
    assert [[point.step for point in found(home, run.id)["optim/BFO/loss"]] for run in (first, second)] == [[1], [2]]
    assert len(records_of(Params, home)) == 2


def test_subclasses_may_have_names_of_ours(home: Path) -> None:
    class Own(BFO):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.steps, self.status = 0, "running"

    with runs.running(home):
        optimizer = bfo(Own)
        optimizer.step(sphere)
        optimizer.step(sphere)
    assert [point.step for point in found(home)["optim/Own/loss"]] == [1, 2]


def test_subclasses_may_be_equal(home: Path) -> None:
    class Equal(BFO):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

    with runs.running(home):
        optimizers = [bfo(Equal), bfo(Equal)]
        for _ in range(2):
            for optimizer in optimizers:
                optimizer.step(sphere)
    by_name = found(home)
    assert [[point.step for point in by_name[f"optim/Equal.{number}/loss"]] for number in (0, 1)] == [[1, 2], [1, 2]]


def test_optimizers_are_not_kept_alive(home: Path) -> None:
    with runs.running(home) as run:
        gone = []
        for _ in range(5):
            optimizer = bfo()
            optimizer.step(sphere)
            gone.append(weakref.ref(optimizer))
        del optimizer
        gc.collect()
        assert [reference() for reference in gone] == [None] * 5
        framework = run._frameworks["optimizers"]
        assert (framework.kept, framework._searches._kept) == ({}, {})


def test_what_a_group_has_may_be_of_any_kind(home: Path) -> None:
    with runs.running(home):
        groups = [{"params": [parameter()], "mask": torch.ones(3)}, {"params": [parameter()], "mask": torch.ones(2)}]
        optimizer = BFO(groups, population_size=8)
        optimizer.param_groups[1]["lr"] = torch.tensor([0.5, 0.5])
        with pytest.raises((ValueError, RuntimeError)):
            optimizer.step(lambda: 1.0)
        optimizer.param_groups[1]["lr"] = torch.tensor(0.5)
        optimizer.step(lambda: 1.0)
    assert len(found(home)["optim/BFO/loss"]) == 1
    said = params(home)
    assert {name: value for name, value in said.items() if "/group.1/" in name} == {
        "optim/BFO/group.1/dimensions": 3,
        "optim/BFO/group.1/lr": 0.5,
    }


def test_numbers_beyond_float32_are_in_the_histogram(home: Path) -> None:
    with runs.running(home):
        weight = nn.Parameter(torch.tensor([1e300, -1e300], dtype=torch.float64))
        BFO([weight], population_size=4, init_std=1e299).step(lambda: 1.0)
    assert len(records_of(Media, home)) == 1
