"""Under torch.compile: nothing fails, nothing breaks a graph, and what runs as it is written is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support import runs
from tests.support.landscapes import sphere
from tests.support.optimizing import POPULATIONS, parameter, series


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Any, fullgraph: bool = False) -> Any:
    return torch.compile(function, backend="eager", fullgraph=fullgraph)


def as_it_is(function: Any) -> Any:
    return function


def test_a_compiled_model_with_an_ordinary_step(home: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    losses = []
    with runs.running(home, optimizer_every=1):
        fast = compiled(model, fullgraph=True)
        sgd = torch.optim.SGD(fast.parameters(), lr=0.1)
        for _ in range(3):
            sgd.zero_grad()
            loss = fast(torch.ones(2, 3)).square().sum()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(fast.parameters(), 1.0)
            losses.append((loss.item(), norm.item()))
            sgd.step()
    by_name = series(home)
    assert by_name["optim/SGD/loss"] == [(step, loss) for step, (loss, _) in enumerate(losses, 1)]
    assert by_name["optim/SGD/grad_norm"] == [(step, norm) for step, (_, norm) in enumerate(losses, 1)]


def weights_after(kind: Any, whole: bool, through: Any, scaled: bool = False) -> list[float]:
    """Three steps."""
    weight = parameter()
    optimizer = kind([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = weight.square().sum()
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_([weight], 10.0)
        nn.utils.clip_grad_value_([weight], 5.0)
        return loss

    def train() -> None:
        closure()
        if scaled:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step(*([closure] if kind is torch.optim.LBFGS else []))

    step = through(train if whole else lambda: optimizer.step(*([closure] if kind is torch.optim.LBFGS else [])))
    for _ in range(3):
        if not whole:
            closure()
        step()
    return weight.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "whole"), [(torch.optim.SGD, True), (torch.optim.Adam, False), (torch.optim.LBFGS, False)]
)
def test_compiled_steps_go_on_and_are_not_counted(kind: Any, whole: bool, home: Path) -> None:
    expected = weights_after(kind, whole, as_it_is)
    with runs.running(home, optimizer_every=1) as run:
        assert weights_after(kind, whole, compiled) == pytest.approx(expected, rel=1e-4)
        assert run._frameworks["optimizers"].updates == {}


def test_a_compiled_loop_with_a_scaler(home: Path) -> None:
    expected = weights_after(torch.optim.SGD, True, as_it_is, scaled=True)
    with runs.running(home, optimizer_every=1):
        assert weights_after(torch.optim.SGD, True, compiled, scaled=True) == expected


class Plain(torch.optim.Optimizer):
    """One that can be compiled as one graph."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.5})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(weight.grad, alpha=-group["lr"])


def test_one_graph_stays_one_graph(home: Path) -> None:
    weight = parameter()
    weight.grad = torch.ones(3)

    def train() -> None:
        nn.utils.clip_grad_norm_([weight], 100.0)
        optimizer.step()

    with runs.running(home, optimizer_every=1):
        optimizer = Plain([weight])
        step = compiled(train, fullgraph=True)
        step()
        step()
        optimizer.step()
    assert weight.tolist() == [-0.5, -3.5, -1.0]
    assert [step for step, _ in series(home)["optim/Plain/lr/0"]] == [1]  # the one that was not compiled


@pytest.mark.parametrize("kind", POPULATIONS)
def test_searches_inside_compiled_code_take_the_same_way_and_are_recorded(kind: Any, home: Path) -> None:
    def searched(through: Any) -> list[float]:
        search = kind([parameter()], seed=0)
        step = through(lambda: search.step(sphere))
        return [float(step()) for _ in range(2)]

    expected = searched(as_it_is)
    with runs.running(home):
        assert searched(compiled) == expected
    assert series(home)[f"optim/{kind.__name__}/loss"] == list(enumerate(expected, 1))


def test_asking_and_telling_inside_compiled_code(home: Path) -> None:
    from tracelet.optim import AdaptiveBFO

    search = AdaptiveBFO([parameter()], seed=0)

    def round_() -> None:
        search.tell(search.ask().square().sum(1))

    with runs.running(home):
        step = compiled(round_)
        while search.status["steps"] < 2:
            step()
    assert [step for step, _ in series(home)["optim/AdaptiveBFO/loss"]] == [1, 2]
