"""The terms of composite losses: of a watched criterion, and of sums by hand."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tracelet
from tests.support import runs
from tests.support.optimizing import found, series
from tests.support.spool_points import points
from tracelet.core import active
from tracelet.core.metrics import MetricType


class Vae(nn.Module):
    """A sum of two modules' numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.recon, self.kl = nn.MSELoss(), nn.L1Loss()
        self.silent = nn.MSELoss(reduction="none")

    def forward(self, x: Tensor, y: Tensor) -> Any:
        self.silent(x, y)
        return self.recon(x, y) + 0.5 * self.kl(x, y)


class Terms(NamedTuple):
    total: Tensor
    recon: Tensor
    each: Tensor


class Returning(nn.Module):
    """Returns whatever it was given to make of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


X, Y = torch.tensor([3.0, 1.0], requires_grad=True), torch.zeros(2)


def test_children_and_total(home: Path) -> None:
    criterion = Vae()
    with runs.running(home):
        tracelet.watch_losses(criterion)
        totals = [criterion(X * step, Y).item() for step in (1, 2)]
    assert series(home) == {
        "loss/recon": [(1, 5.0), (2, 20.0)],
        "loss/kl": [(1, 2.0), (2, 4.0)],
        "loss/total": [(1, totals[0]), (2, totals[1])],
    }
    assert {(point.type, point.type_inferred) for point in points(home)} == {(MetricType.LOSS.value, False)}


RESULTS: dict[str, tuple[Any, dict[str, float]]] = {
    "a number": (lambda x: x.sum(), {"total": 4.0}),
    "a mapping": (
        lambda x: {"recon": x.sum(), "kl": x[:1], "image": x, 3: 2 * x.sum()},
        {"recon": 4.0, "kl": 3.0, "3": 8.0},
    ),
    "a named tuple": (lambda x: Terms(x.sum(), x.max(), x), {"total": 4.0, "recon": 3.0}),
    "a tuple": (lambda x: (x.sum(), x, x.max()), {"0": 4.0, "2": 3.0}),
    "a total and its terms": (lambda x: (x.sum(), {"recon": x.max()}), {"0": 4.0, "recon": 3.0}),
    "nothing": (lambda x: None, {}),
    "no number": (lambda x: x, {}),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_what_a_criterion_returns(kind: str, home: Path) -> None:
    make, expected = RESULTS[kind]
    with runs.running(home):
        criterion = Returning(make)
        tracelet.watch_losses(criterion, prefix="train/loss")
        criterion(X)
    assert series(home) == {f"train/loss/{name}": [(1, value)] for name, value in expected.items()}


def test_only_calls_in_training_count(home: Path) -> None:
    criterion = Vae()
    with runs.running(home):
        tracelet.watch_losses(criterion)
        criterion(X, Y)
        with torch.no_grad():
            criterion(5 * X, Y)
        criterion.eval()
        criterion(6 * X, Y)
        criterion.train()
        with active.muted():
            criterion(7 * X, Y)
        criterion.recon(8 * X, Y)  # by itself
        criterion(2 * X, Y)
    assert series(home)["loss/recon"] == [(1, 5.0), (2, 20.0)]


def test_with_the_optimizers_rhythm(home: Path) -> None:
    criterion = Vae()
    handle = tracelet.watch_losses(criterion)
    for every, steps in ((3, [1, 4]), (0, [1, 2, 3, 4, 5])):
        with runs.running(home, optimizer_every=every) as run:
            for _ in range(5):
                criterion(X, Y)
        assert [step for step, _ in series(home, run.id)["loss/total"]] == steps
    handle.remove()
    handle.remove()
    with runs.running(home) as run:
        criterion(X, Y)
    assert found(home, run.id) == {}
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in criterion.modules())


def test_a_child_that_is_called_twice_and_children_in_containers(home: Path) -> None:
    class Adversarial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bce = nn.MSELoss()
            self.terms = nn.ModuleDict({"a": nn.L1Loss()})

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return {"real": self.bce(x, y), "fake": self.bce(2 * x, y), "terms.a": 10 * self.terms["a"](x, y)}

    with runs.running(home):
        criterion = Adversarial()
        tracelet.watch_losses(criterion, prefix="")
        criterion(X, Y)
    assert series(home) == {
        "bce": [(1, 5.0)],
        "bce.1": [(1, 20.0)],
        "real": [(1, 5.0)],
        "fake": [(1, 20.0)],
        "terms.a": [(1, 20.0)],
    }


def test_a_criterion_is_as_without_us(home: Path) -> None:
    def losses() -> list[Any]:
        criterion = Vae()
        if active.running():
            tracelet.watch_losses(criterion)
        x = torch.tensor([3.0, 1.0], requires_grad=True)
        total = criterion(x, Y)
        total.backward()
        with pytest.raises(TypeError):
            criterion(x)
        again = criterion(x, Y)
        return [total.item(), again.item(), x.grad.tolist(), sorted(criterion.state_dict())]  # type: ignore[union-attr]

    expected = losses()
    with runs.running(home):
        assert losses() == expected
    assert [step for step, _ in series(home)["loss/total"]] == [1, 3]


def test_copies_and_pickles_are_not_watched(home: Path) -> None:
    criterion = Vae()
    file = io.BytesIO()
    with runs.running(home):
        tracelet.watch_losses(criterion)
        torch.save(criterion, file)
        file.seek(0)
        for other in (copy.deepcopy(criterion), torch.load(file, weights_only=False)):
            assert other(X, Y).item() == criterion(X, Y).item()
    assert [step for step, _ in series(home)["loss/total"]] == [1, 2]


def test_threads_and_runs_of_their_own(home: Path) -> None:
    criterion = Vae()
    tracelet.watch_losses(criterion)
    criterion(X, Y)  # no run
    meeting, ids = threading.Barrier(2), {}

    def trial(number: int) -> None:
        with runs.running(home) as run:
            ids[number] = run.id
            for _ in range(number + 1):
                meeting.wait(20) if number == 0 else None
                criterion((number + 1) * X, Y)
            meeting.wait(20) if number == 1 else None

    threads = [threading.Thread(target=trial, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [series(home, ids[number])["loss/recon"] for number in range(2)] == [[(1, 5.0)], [(1, 20.0), (2, 20.0)]]


def test_nothing_is_kept_alive(home: Path) -> None:
    with runs.running(home):
        criterion = Vae()
        tracelet.watch_losses(criterion)
        criterion(X, Y)
        gone = weakref.ref(criterion)
        del criterion
        gc.collect()
        assert gone() is None


def test_a_compiled_criterion_goes_on(home: Path) -> None:
    torch._dynamo.reset()
    criterion = Vae()
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    with runs.running(home):
        tracelet.watch_losses(compiled)
        assert compiled(X, Y).item() == criterion(X, Y).item() == 6.0
    assert series(home) == {"loss/total": [(1, 6.0)]}
    watched = Vae()
    with runs.running(home) as run:
        tracelet.watch_losses(watched)
        fused = torch.compile(lambda: watched(X, Y), backend="eager", fullgraph=True)
        assert fused().item() == 6.0
    assert found(home, run.id) == {}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_criterion_is_traced_as_without_us(home: Path) -> None:
    x, y = torch.ones(2, 3), torch.zeros(2, 3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = (x - y).square().mean()
        tracelet.log_terms({"loss": loss})
        return loss

    def traced(each: Any) -> list[str]:
        return [node.kind() for node in torch.jit.trace(each, (x, y)).inlined_graph.nodes()]

    plain = [traced(Vae()), traced(step)]
    with runs.running(home):
        criterion = Vae()
        tracelet.watch_losses(criterion)
        assert [traced(criterion), traced(step)] == plain


@pytest.mark.parametrize("criterion", [nn.functional.mse_loss, None, nn.MSELoss])
def test_what_is_no_module_is_refused(criterion: Any) -> None:
    with pytest.raises(TypeError, match=r"a criterion is a torch.nn.Module"):
        tracelet.watch_losses(criterion)


# -- by hand


def test_terms_by_hand(home: Path) -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    with runs.running(home):
        for step in range(2):
            terms = {"recon": weight.square(), "kl": 0.5, "beta": np.float32(2.0), "n": 3, 4: torch.tensor([1])}
            tracelet.log_terms(terms)
            tracelet.log_terms({"x": weight}, prefix="", step=10 * step)
        assert weight.grad is None
    assert series(home) == {
        "loss/recon": [(0, 9.0), (1, 9.0)],
        "loss/kl": [(0, 0.5), (1, 0.5)],
        "loss/beta": [(0, 2.0), (1, 2.0)],
        "loss/n": [(0, 3.0), (1, 3.0)],
        "loss/4": [(0, 1.0), (1, 1.0)],
        "x": [(0, 3.0), (10, 3.0)],
    }
    by_name = found(home)
    assert {point.type for point in points(home)} == {MetricType.LOSS.value}
    assert (by_name["loss/kl"][0].step_implied, by_name["x"][0].step_implied) == (True, False)


def test_bad_terms_cost_a_line_each(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    with runs.running(home):
        for _ in range(2):
            tracelet.log_terms({"words": "low", "huge": 10**400, "good": 1.0, "many": torch.ones(2), "none": None})
            tracelet.log_terms(3)  # type: ignore[arg-type]
            tracelet.log_terms({"a": 1.0}, step="soon")
    assert series(home) == {"loss/good": [(0, 1.0), (1, 1.0)]}
    said = capfd.readouterr()
    assert (said.err.count("is no number"), said.err.count("recording the terms of a loss failed")) == (4, 1)
    assert (said.err.count("\n"), said.out) == (5, "")


def test_without_a_run_nothing_happens(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracelet.log_terms({"a": 1.0})
    with runs.running(home):
        with active.muted():
            tracelet.log_terms({"a": 1.0})
    assert points(home) == []
    assert capfd.readouterr().err == ""
