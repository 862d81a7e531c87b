"""Numbers on devices: the training thread never waits for them, and they arrive as they were."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracelet
from tests.support import runs
from tests.support.optimizing import Reads, found, parameter, series
from tracelet.frameworks import reading, tensors

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go the way of those on an accelerator."""
    monkeypatch.setattr(reading, "_is_late", lambda tensor: True)


class Both(nn.Module):
    """A criterion of two terms."""

    def __init__(self) -> None:
        super().__init__()
        self.fit, self.size = nn.MSELoss(), nn.L1Loss()

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.fit(output, target) + 0.5 * self.size(output, target)
        return total


def steps(kind: Any, clipped: bool, closure: bool, watched: bool, device: str = "cpu") -> Reads:
    """Three steps of a small model; what was read in them."""
    torch.manual_seed(0)
    model, criterion = nn.Linear(3, 2).to(device), Both().to(device)
    if watched:
        tracelet.watch_losses(criterion)
    options = {"lr": torch.tensor(0.1)} if kind is torch.optim.SGD else {"lr": 0.1, "foreach": True}
    optimizer = kind(model.parameters(), **options)
    x, y = torch.ones(4, 3, device=device), torch.zeros(4, 2, device=device)

    def judged() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = criterion(model(x), y)
        loss.backward()
        if clipped:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        return loss

    with Reads() as reads:
        for _ in range(3):
            if closure:
                optimizer.step(judged)
            else:
                judged()
                tracelet.log_terms({"weight": model.weight.detach().abs().sum()}, prefix="own")
                optimizer.step()
    return reads


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("closure", [False, True])
def test_nothing_is_waited_for(kind: Any, clipped: bool, closure: bool, home: Path) -> None:
    """Whatever the library itself reads, listening adds nothing to it."""
    without = steps(kind, clipped, closure, watched=False)
    with runs.running(home, optimizer_every=1):
        listening = steps(kind, clipped, closure, watched=True)
    assert listening.names == without.names
    by_name = series(home)
    assert [step for step, _ in by_name[f"optim/{kind.__name__}/loss"]] == [1, 2, 3]
    assert by_name["loss/total"] == by_name[f"optim/{kind.__name__}/loss"]
    assert len(by_name["loss/fit"]) == len(by_name["loss/size"]) == 3


@pytest.mark.parametrize("closure", [False, True])
def test_late_numbers_are_those_that_come_at_once(closure: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.running(home, optimizer_every=1) as at_once:
        steps(torch.optim.SGD, True, closure, watched=True)
    monkeypatch.setattr(reading, "_is_late", lambda tensor: True)
    with runs.running(home, optimizer_every=1) as late:
        steps(torch.optim.SGD, True, closure, watched=True)
    first, second = series(home, at_once.id), series(home, late.id)
    assert first.keys() == second.keys()
    assert {name: sorted(each) for name, each in first.items()} == {name: sorted(each) for name, each in second.items()}
    metadata = [found(home, run.id)["optim/SGD/grad_norm"][0].metadata for run in (at_once, late)]
    assert metadata == [{"clipped": True}] * 2


@pytest.mark.usefixtures("_as_on_a_device")
def test_one_copy_a_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_thread", reading.SimpleQueue)  # no clock tells terms not to wait for their step
    copies: list[int] = []
    original = reading._copied
    monkeypatch.setattr(reading, "_copied", lambda tensors: copies.append(len(tensors)) or original(tensors))
    with runs.running(home, optimizer_every=1):
        steps(torch.optim.Adam, True, True, watched=True)
        taken = list(copies)
    assert len(taken) <= 3
    assert sum(copies) == 3 * 5  # loss, norm, and three terms


@pytest.mark.usefixtures("_as_on_a_device")
def test_late_numbers_keep_their_step_and_time(home: Path) -> None:
    with runs.running(home, optimizer_every=1):
        begun = time.time()
        tracelet.log_terms({"a": torch.tensor(2.0)}, step=7)
        called = time.time()
        deadline = time.monotonic() + 20
        while not found(home) and time.monotonic() < deadline:
            time.sleep(0.01)
        (point,) = found(home)["loss/a"]
    assert (point.step, point.value) == (7, 2.0)
    assert begun <= point.wall_time <= called
    assert "tracelet-reading" in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("_as_on_a_device")
def test_the_end_of_a_run_reads_the_rest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_thread", reading.SimpleQueue)  # nobody works on it
    with runs.running(home, optimizer_every=1):
        tracelet.log_terms({"a": torch.tensor(2.0), "b": 3})
        weight = parameter()
        weight.sum().backward()
        torch.optim.SGD([weight], lr=0.1).step()
        tracelet.log_terms({"a": torch.tensor(4.0)})
    by_name = series(home)
    assert by_name["loss/a"] == [(0, 2.0), (1, 4.0)]
    assert by_name["optim/SGD/loss"] == [(1, -0.5)]


@pytest.mark.usefixtures("_as_on_a_device")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own(home: Path) -> None:
    with runs.running(home, optimizer_every=1) as run:
        tracelet.log_terms({"a": torch.tensor(1.0)})
        assert "queue" in reading._slot
        if (child := os.fork()) == 0:
            status = 1
            try:
                tracelet.log_terms({"b": torch.tensor(2.0)})
                run._frameworks["optimizers"].reader.finish()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert series(home) == {"loss/a": [(0, 1.0)], "loss/b": [(0, 2.0)]}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor(2.5, dtype=torch.float16),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.tensor([[2.5]]),
        torch.arange(10, dtype=torch.float32)[5] / 2,
        nn.Parameter(torch.tensor(2.5)),
    ],
)
def test_what_is_read_from_memory_is_what_torch_reads(tensor: torch.Tensor) -> None:
    assert tensors.on_host(tensor) == tensor.item() == 2.5


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_too(dtype: torch.dtype) -> None:
    assert tensors.on_host(torch.tensor([7, 1]).to(dtype)[1]) == 1.0


def test_what_has_no_memory_has_no_number() -> None:
    seen: list[Any] = []

    def looked(x: torch.Tensor) -> torch.Tensor:
        seen.append(tensors.on_host(x))
        return x

    torch.func.vmap(looked)(torch.ones(3))
    assert seen == [None]
    assert not tensors.is_scalar(torch.empty((), device="meta"))


@pytest.mark.parametrize(
    "kind", [pytest.param(torch.optim.SGD, marks=CUDA), pytest.param(torch.optim.Adam, marks=CUDA)]
)
def test_on_a_cuda_device(kind: Any, home: Path) -> None:
    with runs.running(home, optimizer_every=1) as on_cpu:
        steps(kind, True, True, watched=True)
    with runs.running(home, optimizer_every=1) as on_device:
        with torch.cuda.device(0):
            torch.cuda.set_sync_debug_mode("error")
            try:
                steps(kind, True, True, watched=True, device="cuda")
            finally:
                torch.cuda.set_sync_debug_mode("default")
    expected, arrived = series(home, on_cpu.id), series(home, on_device.id)
    assert arrived.keys() == expected.keys()
    for name, each in expected.items():
        assert sorted(arrived[name]) == [(step, pytest.approx(value, rel=1e-4)) for step, value in sorted(each)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_graph_is_not_looked_into(home: Path) -> None:
    weight = nn.Parameter(torch.ones(2, device="cuda"))
    adam = torch.optim.Adam([weight], capturable=True)
    with runs.running(home, optimizer_every=1):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            weight.square().sum().backward()
            adam.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            adam.zero_grad(set_to_none=True)
            weight.square().sum().backward()
            adam.step()
        for _ in range(3):
            graph.replay()
    assert [step for step, _ in series(home)["optim/Adam/loss"]] == [1]
