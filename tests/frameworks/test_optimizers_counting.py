"""Each step counts once, for the outermost optimizer that owns the parameters."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from tests.support import runs
from tests.support.optimizing import bfo, found, parameter, series
from tests.support.spool_points import points
from tracelet.core import active
from tracelet.frameworks.steps import here


def updates(run: Any) -> dict[str, int]:
    counts: dict[str, int] = run._frameworks["optimizers"].updates
    return counts


def trained(optimizer: Any, weight: nn.Parameter, times: int = 3) -> None:
    """Plain steps, with a closure where the optimizer needs one."""

    def closure() -> Any:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    for _ in range(times):
        closure()
        optimizer.step(closure) if "closure" in needs(optimizer) else optimizer.step()


def needs(optimizer: Any) -> tuple[str, ...]:
    return ("closure",) if isinstance(optimizer, pytorch_optimizer.SAM | torch.optim.LBFGS) else ()


def test_a_subclass_that_calls_the_step_above(home: Path) -> None:
    class Noisy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    fired = []
    handle = torch_optimizer.register_optimizer_step_post_hook(lambda *_: fired.append(1))
    torch.optim.SGD([parameter()], lr=0.1)  # from now on both are hooked
    try:
        with runs.running(home, optimizer_every=1) as run:
            weight = parameter()
            trained(Noisy([weight], lr=0.1), weight)
            assert updates(run) == {"Noisy": 3}
    finally:
        handle.remove()
    assert len(fired) == 6
    assert [step for step, _ in series(home)["optim/Noisy/loss"]] == [1, 2, 3]


WRAPPERS = {
    "SAM": lambda weight: pytorch_optimizer.SAM([weight], base_optimizer=torch.optim.SGD, lr=0.1),
    "Lookahead": lambda weight: pytorch_optimizer.Lookahead(torch.optim.Adam([weight], lr=0.1), k=2),
    "PCGrad": lambda weight: pytorch_optimizer.PCGrad(torch.optim.Adam([weight], lr=0.1)),
    "OrthoGrad": lambda weight: pytorch_optimizer.OrthoGrad(torch.optim.SGD([weight], lr=0.1)),
    "LBFGS": lambda weight: torch.optim.LBFGS([weight], max_iter=5),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_count_for_the_optimizer_inside(name: str, home: Path) -> None:
    weight = parameter()
    with runs.running(home, optimizer_every=2) as run:
        trained(WRAPPERS[name](weight), weight)
        assert updates(run) == {name: 3}
    by_name = series(home)
    assert {each.split("/")[1] for each in by_name} == {name}
    assert [step for step, _ in by_name[f"optim/{name}/loss"]] == [1, 3]


def test_an_optimizer_that_begins_to_count_at_one(home: Path) -> None:
    weight = parameter()
    with runs.running(home, optimizer_every=2) as run:
        first = pytorch_optimizer.load_optimizer("prodigy")([weight])
        trained(first, weight)
        assert updates(run) == {"Prodigy": 3}
    again = pytorch_optimizer.load_optimizer("prodigy")([weight])
    again.load_state_dict(first.state_dict())
    with runs.running(home, optimizer_every=2) as run:
        trained(again, weight)
        assert updates(run) == {"Prodigy": 6}


def test_two_stages_of_sam_are_one_step_of_what_steps(home: Path) -> None:
    weight = parameter()
    with runs.running(home) as run:
        sam = pytorch_optimizer.SAM([weight], base_optimizer=torch.optim.SGD, lr=0.1)
        for _ in range(2):
            weight.square().sum().backward()
            sam.first_step(zero_grad=True)
            weight.square().sum().backward()
            sam.second_step(zero_grad=True)
        assert updates(run) == {"SGD": 2}


class Several(torch.optim.Optimizer):
    """Steps others, as Muon's relatives step one for matrices and one for the rest."""

    def __init__(self, params: Any, *inner: torch.optim.Optimizer) -> None:
        super().__init__(params, {"lr": 1.0})
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        for each in self.inner:
            each.step()


def test_optimizers_inside_that_own_other_parameters_count(home: Path) -> None:
    mine, other = parameter(), parameter()
    mine.grad = other.grad = torch.ones(3)
    with runs.running(home) as run:
        outer = Several([mine], torch.optim.SGD([other], lr=0.1), torch.optim.Adam([mine]))
        outer.step()
        outer.step()
        assert updates(run) == {"SGD": 2, "Several": 2}


def test_a_step_inside_a_closure_is_of_the_step_around_it(home: Path) -> None:
    search = bfo()
    (weight,) = search.param_groups[0]["params"]
    with runs.running(home) as run:
        sgd, other = torch.optim.SGD([weight], lr=0.0), torch.optim.SGD([parameter()], lr=0.1)

        def closure() -> float:
            sgd.step()
            other.step()
            return 1.0

        search.step(closure)
        assert set(updates(run)) == {"SGD.1"}
    assert [step for step, _ in series(home)["optim/BFO/loss"]] == [1]


def test_a_step_that_raises_leaves_nothing_behind(home: Path) -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise ZeroDivisionError("user's")
            return super().step(closure)

    weight = parameter()
    weight.grad = torch.ones(3)
    with runs.running(home) as run:
        failing = Failing([weight], lr=0.1)
        for _ in range(50):  # frames of steps come to lie where others were
            with pytest.raises(ZeroDivisionError, match="user's"):
                failing.step()
        assert updates(run) == {}
        failing.fails = False
        failing.step()
        torch.optim.Adam([weight]).step()
        assert updates(run) == {"Failing": 1, "Adam": 1}
        assert here.stack == []


def test_a_step_that_raises_and_one_that_nobody_records(home: Path) -> None:
    """The frame of the second may lie where that of the first was."""

    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise ZeroDivisionError("user's")
            return super().step(closure)

    weight = parameter()
    weight.grad = torch.ones(3)
    with runs.running(home) as run:
        failing, other = Failing([weight], lr=0.1), torch.optim.SGD([weight], lr=0.1)
        for _ in range(50):
            failing.fails = True
            with pytest.raises(ZeroDivisionError, match="user's"):
                failing.step()
            failing.fails = False
            with active.muted():
                failing.step()
                other.step()
        assert (updates(run), points(home)) == ({}, [])
        other.step()
        assert updates(run) == {"SGD": 1}
        assert here.stack == []


def test_a_failed_step_inside_one_that_goes_on(home: Path) -> None:
    class Patient(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            inner = torch.optim.LBFGS(self.param_groups[0]["params"])
            with pytest.raises(TypeError):
                inner.step()
            return super().step()

    weight = parameter()
    weight.grad = torch.ones(3)
    with runs.running(home) as run:
        patient = Patient([weight], lr=0.1)
        patient.step()
        patient.step()
        assert updates(run) == {"Patient": 2}
        assert here.stack == []


def test_the_users_own_hooks_may_raise(home: Path) -> None:
    weight = parameter()
    weight.grad = torch.ones(3)
    with runs.running(home) as run:
        sgd = torch.optim.SGD([weight], lr=0.1)
        handle = sgd.register_step_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sgd.step()
        handle.remove()
        sgd.step()
        assert updates(run) == {"SGD": 1}


def test_threads_step_at_once(home: Path) -> None:
    meeting = threading.Barrier(4)

    def train(number: int) -> None:
        weight = parameter()
        optimizer = [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad][number]([weight])

        def closure() -> Any:
            meeting.wait(20)  # all are in the middle of a step
            optimizer.zero_grad()
            loss = (weight * (number + 1)).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)

    with runs.running(home, optimizer_every=1) as run:
        threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert updates(run) == dict.fromkeys(["SGD", "Adam", "RMSprop", "Adagrad"], 3)
    by_name = series(home)
    firsts = [by_name[f"optim/{name}/loss"][0] for name in ("SGD", "Adam", "RMSprop", "Adagrad")]
    assert firsts == [(1, -0.5 * (number + 1)) for number in range(4)]


def test_muted_nothing_is_recorded_or_counted(home: Path) -> None:
    weight = parameter()
    with runs.running(home, optimizer_every=1) as run:
        sgd = torch.optim.SGD([weight], lr=0.1)
        with active.muted():
            trained(sgd, weight)
        assert (updates(run), points(home)) == ({}, [])
        trained(sgd, weight, 1)
        assert updates(run) == {"SGD": 1}
    assert [point.metadata for point in found(home)["optim/SGD/loss"]] == [{}]


def test_a_fault_of_ours_does_not_reach_the_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")

    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            self.param_groups = [{**group, "lr": object()} for group in self.param_groups]
            return result

    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    with runs.running(home):
        Odd([weight], lr=0.5).step()
    assert weight.tolist() == [0.5, 0.5]
    said = capfd.readouterr()
    assert said.err.count("recording an optimizer's step failed (TypeError: ") == 1
    assert (said.err.count("\n"), said.out) == (1, "")
