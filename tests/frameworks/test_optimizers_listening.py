"""Listening to a search leaves it as it is, costs what it records, and breaks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

import tracelet
from tests.support import runs
from tests.support.landscapes import sphere
from tests.support.optimizing import POPULATIONS, Reads, bfo, found, parameter
from tests.support.spool_points import records_of
from tracelet.core.metrics import Media, MetricType
from tracelet.optim import BFO, AdaptiveBFO, HybridBFO

THREE = ("best_fitness", "population_diversity", "loss")


# -- the search is what it is without us


def test_listening_takes_up_no_edit(home: Path) -> None:
    """An edit that a hook of the user's makes is refused by the next step, to the user."""
    with runs.running(home):
        optimizer = bfo()
        optimizer.register_step_post_hook(lambda it, *_: it.defaults.update(population_size=20))
        optimizer.step(sphere)
        with pytest.raises(ValueError, match="population_size cannot change"):
            optimizer.step(sphere)
    assert len(found(home)["optim/BFO/loss"]) == 1


def test_listening_begins_no_search(home: Path) -> None:
    """One that goes back to before its first step begins where the parameters are then."""

    def losses() -> list[float]:
        weight = parameter()
        optimizer = BFO([weight], population_size=8, seed=0)
        fresh = optimizer.state_dict()

        class Back(BFO):
            def step(self, closure: Any = None, **how: Any) -> Any:
                loss = super().step(closure, **how)
                self.load_state_dict(fresh)
                return loss

        optimizer.__class__ = Back
        found_losses = [float(optimizer.step(sphere))]
        with torch.no_grad():
            weight.fill_(9.0)
        return [*found_losses, float(optimizer.step(sphere))]

    expected = losses()
    with runs.running(home):
        assert losses() == expected
    assert expected[1] > expected[0]


@pytest.mark.parametrize("kind", POPULATIONS)
def test_the_trajectory_is_the_same(kind: Any, home: Path) -> None:
    def searched() -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        optimizer = kind([parameter()], seed=0, bounds=(-4.0, 4.0))
        for _ in range(6):
            optimizer.step(sphere)
        return optimizer.population.clone(), torch.get_rng_state()

    positions, numbers = searched()
    with runs.running(home, optimizer_status=True, optimizer_histogram_every=2):
        heard, after = searched()
    assert torch.equal(heard, positions)
    assert torch.equal(after, numbers)


# -- settings


def test_every_few_steps(home: Path) -> None:
    with runs.running(home, optimizer_every=3):
        optimizer = bfo()
        for _ in range(8):
            optimizer.step(sphere)
    assert [point.step for point in found(home)["optim/BFO/loss"]] == [1, 4, 7]


@pytest.mark.parametrize("kind", POPULATIONS)
def test_the_whole_status_on_request(kind: Any, home: Path) -> None:
    with runs.running(home, optimizer_status=True):
        optimizer = kind([parameter()], seed=0, bounds=(-3.0, 3.0))
        optimizer.step(sphere)
        optimizer.step(sphere)
        told = dict(optimizer.status)
    by_name = found(home)
    assert set(by_name) == {f"optim/{kind.__name__}/{name}" for name in told} - {f"optim/{kind.__name__}/steps"}
    for name, value in told.items():
        if name != "steps":
            assert by_name[f"optim/{kind.__name__}/{name}"][-1].value == pytest.approx(value, rel=0, abs=0, nan_ok=True)


def test_a_histogram_of_the_population_now_and_then(home: Path) -> None:
    with runs.running(home, optimizer_histogram_every=2):
        optimizer = bfo()
        for _ in range(4):
            optimizer.step(sphere)
    media = records_of(Media, home)
    assert [(each.name, each.kind, each.step) for each in media] == [
        ("optim/BFO/population", MetricType.HISTOGRAM.value, 1),
        ("optim/BFO/population", MetricType.HISTOGRAM.value, 3),
    ]


def counted(optimizer: Any) -> list[Any]:
    """What is asked of an optimizer's status from now on."""
    asked: list[Any] = []
    original = optimizer.status._measure
    optimizer.status._measure = lambda names: asked.append(names) or original(names)
    return asked


def test_switched_off_nothing_is_computed(home: Path) -> None:
    with runs.running(home, optimizer_every=0) as run:
        optimizer = bfo()
        asked = counted(optimizer)
        optimizer.step(sphere)
        assert not run._frameworks["optimizers"].tracking
        assert not torch_optimizer._global_optimizer_post_hooks
    assert (asked, found(home)) == ([], {})


def test_a_disabled_run_listens_to_nothing(home: Path) -> None:
    run = tracelet.start_logging(mode="disabled")
    try:
        optimizer = bfo()
        asked = counted(optimizer)
        optimizer.step(sphere)
        assert set(run._frameworks) >= {"optimizers"}
        assert not torch_optimizer._global_optimizer_post_hooks
    finally:
        tracelet.stop_logging()
    assert (asked, found(home)) == ([], {})


# -- what it costs


@pytest.mark.parametrize("kind", POPULATIONS)
def test_one_copy_a_step_with_a_listener_and_none_without(kind: Any, home: Path) -> None:
    """On a device: `tolist` of one stacked tensor is one copy, in which the dispatcher sees a read of each number."""
    optimizer = kind([parameter()], seed=0, decisions="device", bounds=(-4.0, 4.0))
    optimizer.step(sphere)
    with Reads() as without:
        for _ in range(3):
            optimizer.step(sphere)
    stacked = []
    with runs.running(home, optimizer_histogram_every=0):
        original = torch.Tensor.tolist
        with pytest.MonkeyPatch.context() as patch, Reads() as listening:
            patch.setattr(torch.Tensor, "tolist", lambda tensor: stacked.append(tensor.shape) or original(tensor))
            for _ in range(3):
                optimizer.step(sphere)
    assert without.names == []
    assert len(stacked) == 3
    assert len(listening.names) <= sum(shape.numel() for shape in stacked)
    assert len(found(home)[f"optim/{kind.__name__}/loss"]) == 3


def test_only_what_is_recorded_is_computed(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo()
        asked = counted(optimizer)
        for _ in range(11):
            optimizer.step(sphere)
    with_flags = {*THREE, "population_size", "evaluations", "diversity_collapsed", "mostly_nonfinite"}
    assert [set(names) == with_flags for names in asked] == [True, *[False] * 9, True]
    assert {*THREE, "population_size", "evaluations"} == set(asked[1]) == set(asked[9])


def test_the_hooks_go_with_the_last_run(home: Path) -> None:
    before = dict(torch_optimizer._global_optimizer_post_hooks), Optimizer.__init__
    with runs.running(home):
        assert len(torch_optimizer._global_optimizer_post_hooks) == len(before[0]) + 1
        with runs.running(home):
            assert len(torch_optimizer._global_optimizer_post_hooks) == len(before[0]) + 1
    assert (dict(torch_optimizer._global_optimizer_post_hooks), Optimizer.__init__) == before
    bfo().step(sphere)
    assert found(home) == {}


# -- trouble


@pytest.mark.parametrize("kind", [BFO, AdaptiveBFO])
def test_a_population_that_collapses_is_told_once(kind: Any, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runs.running(home):
        optimizer = kind([parameter()], population_size=8, init_std=0.0, step_size_max=0.0, use_swarming=False)
        for _ in range(3):
            optimizer.step(sphere)
        assert optimizer.status["diversity_collapsed"]
    said = capfd.readouterr()
    assert said.out == ""
    assert (
        said.err.count("\n")
        == said.err.count(f"optim/{kind.__name__}, step 1: the population has collapsed onto one point")
        == 1
    )


def test_one_bacterium_alone_does_not_collapse(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runs.running(home):
        weight = parameter()
        optimizer = HybridBFO([weight], population_size=1)
        for _ in range(3):
            optimizer.step(lambda: weight.square().sum())
    assert capfd.readouterr().err == ""
    assert [point.value for point in found(home)["optim/HybridBFO/population_diversity"]] == [0.0] * 3


def test_fitness_that_is_mostly_no_number_is_told_once(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tracelet.optim import batched

    @batched(flat=True)
    def mostly_nan(points: Tensor) -> Tensor:
        return torch.where(torch.arange(len(points)) % 4 == 0, points.square().sum(1), torch.nan)

    with runs.running(home):
        optimizer = bfo(swim_length=0)
        for _ in range(3):
            optimizer.step(mostly_nan)
    assert capfd.readouterr().err.count("more than half of the population has a fitness that is NaN") == 1


def test_all_fitness_nan_is_recorded_as_it_is(home: Path) -> None:
    with runs.running(home):
        optimizer = bfo()
        optimizer.step(lambda: float("nan"))
    (best,) = found(home)["optim/BFO/best_fitness"]
    (loss,) = found(home)["optim/BFO/loss"]
    assert best.value == float("inf")
    assert loss.value != loss.value


def test_a_fault_of_ours_does_not_reach_the_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")

    class Odd(BFO):
        def _measured(self, names: Any = None) -> Any:
            raise RuntimeError("no count")

    with runs.running(home):
        optimizer = bfo(Odd)
        first, second = optimizer.step(sphere), optimizer.step(sphere)
        assert second <= first
    said = capfd.readouterr().err
    assert said.count("\n") == said.count("recording an optimizer's step failed (RuntimeError: no count)") == 1


def test_the_users_exceptions_pass(home: Path) -> None:
    def closure() -> float:
        raise StopIteration("no more data")

    with runs.running(home):
        optimizer = bfo()
        with pytest.raises(StopIteration, match="no more data"):
            optimizer.step(closure)
    assert found(home) == {}
