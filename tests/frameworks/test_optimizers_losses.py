"""The loss of each step: what the closure returned, else what `backward()` was called on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import backward as imported_earlier

from tests.support import runs
from tests.support.optimizing import bfo, found, parameter, series

ONE = torch.ones(1)


def weight(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def test_a_closures_first_result(home: Path) -> None:
    seen = []
    with runs.running(home, optimizer_every=1):
        mine = parameter()
        for optimizer in (torch.optim.SGD([mine], lr=0.1), torch.optim.LBFGS([mine], max_iter=4)):

            def closure(optimizer: Any = optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                loss = (mine - 2.0).square().sum()
                loss.backward()
                return loss

            seen.append([(step, optimizer.step(closure).item()) for step in (1, 2)])  # type: ignore[attr-defined]
    by_name = series(home)
    assert [by_name[f"optim/{name}/loss"] for name in ("SGD", "LBFGS")] == seen


@pytest.mark.parametrize("result", [2.5, torch.tensor([2.5]), torch.tensor(2.5, dtype=torch.float16)])
def test_a_closure_may_return_numbers_of_any_kind(result: Any, home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight()
        mine.grad = ONE.clone()
        assert torch.optim.SGD([mine], lr=0.1).step(closure=lambda: result) is result
    assert series(home)["optim/SGD/loss"] == [(1, 2.5)]


@pytest.mark.parametrize("result", [None, "low", torch.ones(2), torch.tensor(1j), {}])
def test_a_closure_that_returns_none_has_no_loss(result: Any, home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight()
        mine.grad = ONE.clone()
        assert torch.optim.SGD([mine], lr=0.1).step(lambda: result) is result
    assert "optim/SGD/loss" not in found(home)


def test_a_closure_that_returns_more_than_a_loss_leaves_what_backward_was_called_on(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight(3.0)

        def closure() -> Any:
            loss = mine.square().sum()
            loss.backward()
            return loss, {"more": 1}

        torch.optim.SGD([mine], lr=0.1).step(closure)
    assert series(home)["optim/SGD/loss"] == [(1, 9.0)]


def test_what_a_closure_raises_and_is_stays_the_users(home: Path) -> None:
    class Objective:
        batch = 7

        def __call__(self) -> float:
            raise StopIteration("no more data")

    class Looking(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            assert closure.batch == 7
            return super().step(closure)

    with runs.running(home, optimizer_every=1) as run:
        mine = weight()
        mine.grad = ONE.clone()
        looking = Looking([mine], lr=0.1)
        with pytest.raises(StopIteration, match="no more data"):
            looking.step(Objective())
        assert run._frameworks["optimizers"].updates == {}


def test_closures_of_population_optimizers_are_not_touched(home: Path) -> None:
    seen: list[Any] = []

    def closure() -> float:
        return 1.0

    class Looking(torch.optim.Optimizer):
        pass

    with runs.running(home, optimizer_every=1):
        search = bfo()
        search.register_step_pre_hook(lambda _, args, kwargs: seen.append(args[1]))
        search.step(closure)
    assert seen == [closure]


CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "Tensor.backward": lambda loss: loss.backward(),
    "autograd.backward": lambda loss: torch.autograd.backward((loss,)),
    "a list": lambda loss: torch.autograd.backward([loss]),
    "by its name": lambda loss: torch.autograd.backward(tensors=loss),
    "imported earlier": imported_earlier,
    "with a gradient": lambda loss: loss.backward(torch.tensor(0.5)),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_backward_was_called_on(call: str, home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight(3.0)
        sgd = torch.optim.SGD([mine], lr=0.1)
        loss = mine.square().sum()
        CALLS[call](loss)
        with torch.no_grad():
            loss.fill_(77.0)  # what happens to it later is another matter
        sgd.step()
    assert series(home)["optim/SGD/loss"] == [(1, 9.0)]
    assert found(home)["optim/SGD/loss"][0].metadata == {}


def test_several_losses_at_once_are_their_sum(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight(3.0)
        torch.autograd.backward([mine.square().sum(), (2 * mine).sum()])
        torch.optim.SGD([mine], lr=0.1).step()
    assert series(home)["optim/SGD/loss"] == [(1, 15.0)]


def test_what_is_no_training_loss(home: Path) -> None:
    """Gradients for their own sake; a backward of what is no scalar; one that raised."""
    with runs.running(home, optimizer_every=1):
        mine = weight(3.0)
        (mine * 5).sum().backward()
        torch.autograd.grad(mine.square().sum(), mine)
        (mine * torch.ones(2)).backward(torch.ones(2))
        used = mine.square().sum()
        used.backward()
        with pytest.raises(RuntimeError, match="second time"):
            used.backward()
        torch.optim.SGD([mine], lr=0.1).step()
        torch.optim.SGD([mine], lr=0.1).step()
    losses = found(home)
    (point,) = losses["optim/SGD.1/loss"] if "optim/SGD.1/loss" in losses else losses["optim/SGD/loss"]
    assert (point.value, point.metadata) == (9.0, {"backward_calls": 2})


def test_accumulation_is_noted(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight()
        sgd = torch.optim.SGD([mine], lr=0.0)
        for step in range(2):
            sgd.zero_grad()
            for part in range(3 - step):
                (mine * (part + 1)).sum().backward()
            sgd.step()
    points = found(home)["optim/SGD/loss"]
    assert [(point.value, point.metadata) for point in points] == [
        (3.0, {"backward_calls": 3}),
        (2.0, {"backward_calls": 2}),
    ]


def gan(simultaneous: bool, steps: int) -> tuple[list[float], list[float]]:
    """Two players; returns the losses of each."""
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(1, 1), nn.Linear(1, 1)
    of_g, of_d = torch.optim.SGD(generator.parameters(), lr=0.01), torch.optim.Adam(discriminator.parameters())
    losses: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        fake = generator(torch.randn(4, 1))
        of_d.zero_grad()
        loss_d = discriminator(fake.detach()).mean() - discriminator(torch.ones(4, 1)).mean()
        loss_d.backward()
        if not simultaneous:
            of_d.step()
        of_g.zero_grad()
        for each in discriminator.parameters():
            each.requires_grad_(not simultaneous)
        loss_g = -discriminator(fake).mean()
        loss_g.backward()
        for each in discriminator.parameters():
            each.requires_grad_(True)
        if simultaneous:
            of_d.step()
        of_g.step()
        losses[0].append(loss_g.item())
        losses[1].append(loss_d.item())
    return losses


@pytest.mark.parametrize("simultaneous", [False, True])
def test_each_of_two_optimizers_has_its_own_loss(simultaneous: bool, home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        of_g, of_d = gan(simultaneous, 4)
    by_name = series(home)
    # Before the first steps nobody knows whose gradients are whose.
    unknown = 1 if simultaneous else 0
    assert by_name["optim/SGD/loss"][-4 + unknown :] == list(enumerate(of_g, 1))[unknown:]
    assert by_name["optim/Adam/loss"][unknown:] == list(enumerate(of_d, 1))[unknown:]
    assert {tuple(point.metadata) for name in ("SGD", "Adam") for point in found(home)[f"optim/{name}/loss"][1:]} == {
        ()
    }


def test_both_first_steps_of_two_have_losses_at_the_default_rhythm(home: Path) -> None:
    with runs.running(home):
        of_g, of_d = gan(False, 52)
    by_name = series(home)
    assert by_name["optim/SGD/loss"] == [(1, of_g[0]), (51, of_g[50])]
    assert by_name["optim/Adam/loss"] == [(1, of_d[0]), (51, of_d[50])]


def test_the_first_loss_of_an_optimizer_that_is_made_late(home: Path) -> None:
    with runs.running(home):
        for losses in ([float(step) for step in range(1, 31)], [7.0, 8.0]):
            mine = weight()
            optimizer = torch.optim.SGD([mine], lr=0.0)
            for loss in losses:
                (mine * loss).sum().backward()
                optimizer.step()
    by_name = series(home)
    assert by_name["optim/SGD/loss"] == [(1, 1.0)]
    assert by_name["optim/SGD.1/loss"] == [(1, 7.0)]


def test_a_loss_of_before_the_run_is_not_the_runs(home: Path) -> None:
    mine = weight(3.0)
    mine.square().sum().backward()
    with runs.running(home, optimizer_every=1):
        torch.optim.SGD([mine], lr=0.1).step()
    assert "optim/SGD/loss" not in found(home)
    with runs.running(home, optimizer_every=1):
        mine.square().sum().backward()
    with runs.running(home, optimizer_every=1) as run:
        torch.optim.SGD([mine], lr=0.1).step()
    assert "optim/SGD/loss" not in found(home, run.id)


def test_an_optimizer_that_is_gone_is_not_waited_for(home: Path) -> None:
    backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    with runs.running(home):
        for steps in (50, 20):
            mine = weight()
            optimizer = torch.optim.SGD([mine], lr=0.1)
            for _ in range(steps):
                mine.sum().backward()
                optimizer.step()
        assert torch.autograd._engine_run_backward is backward  # type: ignore[attr-defined]


def test_losses_that_are_no_numbers_arrive_as_they_are(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        mine = weight()
        sgd = torch.optim.SGD([mine], lr=0.0)
        for factor in (float("inf"), float("nan")):
            sgd.zero_grad()
            (mine * factor).sum().backward()
            sgd.step()
    first, second = series(home)["optim/SGD/loss"]
    assert first == (1, float("inf"))
    assert second[1] != second[1]


def test_graphs_are_not_kept_alive(home: Path) -> None:
    import weakref

    with runs.running(home, optimizer_every=1):
        mine = weight()
        loss = mine.square().sum()
        node = weakref.ref(loss)
        loss.backward()
        del loss
        assert node() is None


def test_one_that_never_steps_again_is_not_waited_for_for_ever(home: Path) -> None:
    with runs.running(home, optimizer_every=50) as run:
        one, other = weight(), weight()
        idle, busy = torch.optim.SGD([one], lr=0.0), torch.optim.Adam([other], lr=0.0)

        def steps(optimizer: Any, mine: nn.Parameter, number: int) -> None:
            for step in range(number):
                optimizer.zero_grad()
                (mine * float(step)).sum().backward()
                optimizer.step()

        steps(idle, one, 50)  # its next one would be recorded
        steps(busy, other, 130)
        assert not run._frameworks["optimizers"]._hearing.open
        steps(idle, one, 3)  # the first is not expected any more: its loss is not heard, so the second is recorded
        assert not run._frameworks["optimizers"]._hearing.open
    by_name = series(home)
    assert by_name["optim/SGD/loss"] == [(1, 0.0), (52, 1.0)]
    assert by_name["optim/SGD/grad_norm"] == [(1, 0.0), (52, 1.0)]
    assert by_name["optim/Adam/loss"] == [(1, 0.0), (51, 50.0), (101, 100.0)]
