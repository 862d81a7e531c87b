"""What the steps of optimizers leave in a run."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tests.support import runs
from tests.support.landscapes import sphere
from tests.support.spool_points import points, records_of
from tracelet.core.metrics import Media, Metric, MetricType, Params
from tracelet.optim import BFO, CMAES, AdaptiveBFO, DifferentialEvolution, HybridBFO, ParticleSwarm

THREE = ("best_fitness", "population_diversity", "loss")
ALL = [BFO, AdaptiveBFO, HybridBFO, CMAES, DifferentialEvolution, ParticleSwarm]


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def bfo(kind: Any = BFO, **settings: Any) -> Any:
    return kind([parameter()], population_size=8, seed=0, **settings)


def found(home: Path, run_id: str | None = None) -> dict[str, list[Metric]]:
    """Points by name."""
    by_name: dict[str, list[Metric]] = {}
    for point in points(home, run_id):
        by_name.setdefault(point.name, []).append(point)
    return by_name


def params(home: Path) -> dict[str, Any]:
    return {name: value for record in records_of(Params, home) for name, value in record.values.items()}


# -- what arrives


@pytest.mark.parametrize("kind", ALL)
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


def test_ordinary_optimizers_are_left_alone(home: Path) -> None:
    with runs.running(home):
        weight = parameter()
        adam = torch.optim.Adam([weight])
        weight.square().sum().backward()
        adam.step()
    assert points(home) == []
    assert params(home) == {}


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


@pytest.mark.parametrize("kind", ALL)
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


@pytest.mark.parametrize("kind", ALL)
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


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ALL)
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
        assert run._frameworks["optimizers"]._listeners._kept == {}


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


def test_compiled_steps_go_on(home: Path) -> None:
    """Of any optimizer: torch.compile traces through the hooks."""
    torch._dynamo.reset()
    weight = nn.Parameter(torch.ones(3))
    sgd = torch.optim.SGD([weight], lr=0.1)

    @torch.compile(backend="eager")
    def train() -> None:
        sgd.zero_grad()
        weight.square().sum().backward()
        sgd.step()

    with runs.running(home):
        for _ in range(3):
            train()
    assert weight.tolist() == pytest.approx([0.512] * 3)
    assert points(home) == []
