"""Nested runs: which run a point belongs to while one is within another, and how they end."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from torch.utils.tensorboard import SummaryWriter
from tracelet_collector.home import log_path
from tracelet_collector.log.schema import open_reader

import tracelet
from tests.support.clients import Client, client
from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.core import active, nesting
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import Metric
from tracelet.errors import ConfigurationError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.settings import TraceletSettings
from tracelet.testing import Captured, capture


@pytest.fixture
def cap() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def start(name: str, **arguments: Any) -> Experiment:
    return tracelet.start_logging(name, nested=True, **arguments)


def values(cap: Captured) -> dict[str, list[float]]:
    """By the run's name, its values of `x`."""
    found: dict[str, list[float]] = {}
    for run_id, record in cap._records():  # read once, for all runs
        if isinstance(record, Metric) and record.name == "x":
            found.setdefault(run_id, []).append(record.value)
    return {run.name: found.get(run.id, []) for run in cap.runs}


def log(value: float) -> None:
    tracelet.log({"x": value})


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    (result,) = found
    return result


class TestPoints:
    def test_they_go_to_the_innermost_and_then_to_the_outer_one_again(self, cap: Captured, tmp_path: Path) -> None:
        before = SummaryWriter(str(tmp_path / "a"))
        with tracelet.start_logging("outer") as outer:
            log(0)
            with start("inner") as inner:
                log(1)
                with start("innermost") as innermost:
                    log(2)
                    before.add_scalar("w", 2.5, 0)
                    outer.log_metric("x", 0.5)
                assert tracelet.get_active_experiment() is inner
                log(1.5)
            before.add_scalar("w", 0.75, 0)
            log(0.9)
        before.close()
        assert values(cap) == {"outer": [0, 0.5, 0.9], "inner": [1, 1.5], "innermost": [2]}
        assert [(point.value, run) for run in cap.runs for point in cap.points("w", run)] == [
            (0.75, outer),
            (2.5, innermost),
        ]
        assert [run.plan.parent for run in cap.runs] == ["", outer.id, inner.id]
        assert [run.active for run in (outer, inner, innermost)] == [False] * 3
        assert tracelet.get_active_experiment() is None

    def test_those_of_plain_threads_too(self, cap: Captured) -> None:
        with tracelet.start_logging("outer"):
            with start("inner"):
                in_thread(lambda: log(1))
            in_thread(lambda: log(0))
        assert values(cap) == {"outer": [0], "inner": [1]}

    def test_those_of_plain_threads_beside_several_are_the_outer_ones(self, cap: Captured) -> None:
        done = threading.Event()

        def fold(name: str) -> None:
            with start(name):
                log(1)
                done.wait(20)

        with tracelet.start_logging("outer") as outer:
            folds = [threading.Thread(target=fold, args=(name,)) for name in "ab"]
            for thread in folds:
                thread.start()
            until(lambda: len(active.running()) == 3, what="both folds run")
            in_thread(lambda: log(0))
            assert tracelet.get_active_experiment() is outer
            done.set()
            for thread in folds:
                thread.join()
        assert values(cap) == {"outer": [0], "a": [1], "b": [1]}
        assert {run.plan.parent for run in cap.runs[1:]} == {outer.id}

    def test_tasks_keep_to_their_own(self, cap: Captured) -> None:
        async def fold(name: str) -> None:
            with start(name):
                for value in range(3):
                    log(value)
                    await asyncio.sleep(0)
                await asyncio.to_thread(log, 9)

        async def main() -> None:
            with tracelet.start_logging("outer"):
                await asyncio.gather(fold("a"), fold("b"))
                log(100)

        asyncio.run(main())
        assert values(cap) == {"outer": [100], "a": [0, 1, 2, 9], "b": [0, 1, 2, 9]}

    def test_tasks_beside_each_other_are_within_nothing(self, cap: Captured) -> None:
        async def fold(name: str) -> None:
            with start(name):
                log(1)
                await asyncio.sleep(0)
                log(2)

        async def main() -> None:
            await asyncio.gather(fold("a"), fold("b"))

        asyncio.run(main())
        assert values(cap) == {"a": [1, 2], "b": [1, 2]}
        assert [run.plan.parent for run in cap.runs] == ["", ""]

    def test_cells_of_a_notebook(self, cap: Captured) -> None:
        """Each is a task of its own, in a context that does not come back."""

        async def cell(code: str) -> None:
            exec(code, {"tracelet": tracelet, "start": start, "log": log})

        for code in ("tracelet.start_logging('outer')", "start('inner'); log(1)", "tracelet.stop_logging(); log(0)"):
            asyncio.run(cell(code))
        outer, inner = cap.runs
        assert values(cap) == {"outer": [0], "inner": [1]}
        assert (inner.plan.parent, outer.active) == (outer.id, True)
        for code in ("start('second'); log(2)", "tracelet.start_logging('next'); log(3)"):
            asyncio.run(cell(code))
        assert values(cap) == {"outer": [0], "inner": [1], "second": [2], "next": [3]}
        assert active.running() == [cap.runs[-1]]

    def test_a_context_that_was_copied_from_a_nested_run(self, cap: Captured) -> None:
        with tracelet.start_logging("outer"):
            with start("inner"):
                copied = contextvars.copy_context()
            copied.run(log, 0)
        assert values(cap) == {"outer": [0], "inner": []}

    def test_trials_in_threads_stay_apart(self, cap: Captured) -> None:
        """As ever: a run of another thread's is not around what this one starts."""
        began, done = threading.Event(), threading.Event()

        def other() -> None:
            with tracelet.start_logging("other"):
                began.set()
                done.wait(20)

        thread = threading.Thread(target=other)
        thread.start()
        began.wait(20)
        in_thread(lambda: start("alone"))
        alone = cap.runs[-1]
        assert (alone.plan.parent, nesting.outer_of(alone)) == ("", None)
        done.set()
        thread.join()


class TestStarting:
    def test_without_a_run_around_it_is_a_run_as_any(self, cap: Captured) -> None:
        with start("alone") as run:
            assert run.plan.parent == ""
        assert len(cap.runs) == 1

    def test_what_is_not_given_is_the_outer_ones(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACELET_GROUP", "of the environment")
        settings = TraceletSettings(
            project="cv", backend=["tensorboard"], run_name="outer", tags={"a": "1"}, stop_timeout=3, notes="n"
        )
        with tracelet.start_logging(settings=settings, backend_url=str(home / "tb")) as outer, start("inner") as inner:
            plan = inner.plan
            assert (plan.project, plan.backends, plan.home) == ("cv", outer.plan.backends, outer.plan.home)
            assert plan.stop_timeout == 3
            assert (plan.notes, dict(plan.tags), plan.group) == ("", {}, "of the environment")
            with start("other", project="p", backend="mlflow", group="g", parent="x") as other:
                assert (other.project, other.plan.group, other.plan.parent) == ("p", "g", "x")
                assert [backend.kind for backend in other.plan.backends] == ["mlflow"]

    def test_a_plain_start_ends_all_that_was_started_here(self, cap: Captured) -> None:
        tracelet.start_logging("outer")
        start("inner")
        log(1)
        with tracelet.start_logging("next") as run:
            assert active.running() == [run]
            assert run.plan.parent == ""
            log(2)
        assert values(cap) == {"outer": [], "inner": [1], "next": [2]}
        assert [str(run.status) for run in cap.runs] == ["finished"] * 3

    def test_a_plain_start_in_a_thread_leaves_the_others_alone(self, cap: Captured) -> None:
        def fold() -> None:
            start("inner")
            with tracelet.start_logging("next"):
                log(2)

        with tracelet.start_logging("outer") as outer:
            in_thread(fold)
            assert outer.active
            log(0)
        assert values(cap) == {"outer": [0], "inner": [], "next": [2]}

    def test_an_id_of_ones_own(self, cap: Captured) -> None:
        with tracelet.start_logging("outer", run_id="o"):
            with pytest.raises(ConfigurationError, match="'o' is recorded in another"):
                start("again", run_id="o", resume="auto")
            with start("inner", run_id="i") as inner:
                assert (inner.id, inner.plan.parent) == ("i", "o")
            with start("inner", run_id="i", resume="must") as inner:
                log(3)
        assert [point.value for point in cap.points("x", inner)] == [3]

    def test_disabled(self, cap: Captured) -> None:
        with tracelet.start_logging("outer"):
            with start("inner", mode="disabled") as inner:
                inner.log_metric("x", 1)
            log(0)
        assert values(cap) == {"outer": [0]}


class TestEnds:
    def test_stop_logging_ends_the_innermost(self, cap: Captured) -> None:
        outer = tracelet.start_logging("outer")
        inner = start("inner")
        tracelet.stop_logging()
        assert (outer.active, inner.active) == (True, False)
        log(0)
        tracelet.stop_logging()
        tracelet.stop_logging()
        assert values(cap) == {"outer": [0], "inner": []}
        assert active.running() == []

    def test_the_outer_one_takes_the_others_along(self, cap: Captured) -> None:
        def train() -> None:
            with tracelet.start_logging("outer"):
                start("inner")
                start("innermost")
                log(2)
                raise ZeroDivisionError("why")

        with pytest.raises(ZeroDivisionError):
            train()
        assert [(str(run.status), run.active) for run in cap.runs] == [("failed", False)] * 3
        assert active.running() == []
        assert values(cap)["innermost"] == [2]

    def test_the_inner_one_leaves_the_outer_one(self, cap: Captured) -> None:
        with tracelet.start_logging("outer"):
            with pytest.raises(ZeroDivisionError), start("inner"):
                raise ZeroDivisionError
            log(0)
        assert [str(run.status) for run in cap.runs] == ["finished", "failed"]

    def test_of_other_contexts_too(self, cap: Captured) -> None:
        began, go = threading.Event(), threading.Event()

        def fold() -> None:
            with start("inner"):
                began.set()
                go.wait(20)
                log(1)

        thread = threading.Thread(target=fold)
        with tracelet.start_logging("outer"):
            thread.start()
            began.wait(20)
        assert [run.active for run in cap.runs] == [False, False]
        go.set()
        thread.join()
        assert values(cap) == {"outer": [], "inner": []}


class TestRanks:
    def test_a_silent_one(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)

        @tracelet.run
        def fold(k: int) -> None:
            log(k)

        outer = tracelet.start_logging("outer")
        with start("inner") as inner:
            log(1)
            assert tracelet.get_active_experiment() is inner
        assert tracelet.get_active_experiment() is outer
        fold(3)
        assert tracelet.get_active_experiment() is outer
        tracelet.stop_logging()
        assert active.running() == []
        assert not list(home.rglob("*.spool"))
        assert not (home / "spool").exists()


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


def test_children_join_the_innermost(shared: Client) -> None:
    done = shared.run("""
import multiprocessing, subprocess
from concurrent.futures import ProcessPoolExecutor

@tracelet.run(exp_name="n-call")
def fold(k):
    tracelet.log({"x": k}, k)
    return tracelet.get_active_experiment().plan.parent

def child(value):
    tracelet.log({"x": value}, 0)

def joins(value):
    with tracelet.start_logging() as run:
        run.log_metric("x", value, 1)

if __name__ == "__main__":
    with tracelet.start_logging("n-outer", project="of the outer run") as outer:
        with tracelet.start_logging("n-inner", nested=True) as inner:
            if os.fork() == 0:
                child(1.0)
                with tracelet.start_logging("n-forked", nested=True) as forked:
                    child(2.0)
                child(3.0)
                os._exit(0)
            os.wait()
            spawned = multiprocessing.get_context("spawn").Process(target=joins, args=(4.0,))
            spawned.start(); spawned.join()
            assert os.environ["TRACELET_RUN_ID"] == inner.id
        assert os.environ["TRACELET_RUN_ID"] == outer.id
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            parents = list(pool.map(fold, [5, 6]))
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            parents += list(pool.map(fold, [7]))
        assert parents == [outer.id] * 3, parents
        child(0.0)
    assert "TRACELET_RUN_ID" not in os.environ
    tell([outer.id, inner.id])
""")
    assert (done.code, done.err) == (0, "")
    outer, inner = done.told
    assert shared.status("n-outer") == shared.status("n-inner") == shared.status("n-forked") == "finished"
    assert shared.points("n-outer", "x") == [(0, 0.0)]
    assert sorted(shared.points("n-inner", "x")) == [(0, 1.0), (0, 3.0), (1, 4.0)]
    assert shared.points("n-forked", "x") == [(0, 2.0)]
    assert in_log(shared, "n-inner") == [(outer, "of the outer run")]
    assert in_log(shared, "n-forked") == [(inner, "of the outer run")]
    assert in_log(shared, "n-call") == [(outer, "of the outer run")] * 3


def test_all_end_with_the_script(shared: Client) -> None:
    done = shared.run("""
outer = tracelet.start_logging("e-outer")
inner = tracelet.start_logging("e-inner", nested=True)
tracelet.log({"x": 1.0}, 0)
outer.log_metric("x", 2.0, 0)
raise SystemExit("over")
""")
    assert done.code == 1
    assert (shared.status("e-outer"), shared.status("e-inner")) == ("finished", "finished")
    assert shared.points("e-inner", "x") == [(0, 1.0)]
    assert shared.points("e-outer", "x") == [(0, 2.0)]


@pytest.mark.timeout(300)
def test_a_cross_validation_in_mlflow(shared_spine: Spine) -> None:
    """Under `tracelet run` the first call adopts its run; five nested ones, each with its points and a table."""
    script = shared_spine.folder / "cv.py"
    script.write_text("""
import tracelet

@tracelet.run
def fold(k, lr=0.1):
    for step in range(40):
        tracelet.log({"train": {"loss": k + step / 100}}, step=step)
    tracelet.log_table("errors", {"sample": [k, k + 1], "wrong": [True, None]}, step=40)
    return k

@tracelet.run(project="cv")
def main():
    for k in range(5):
        tracelet.log({"mean": fold(k) / 2}, step=k)

main()
""")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tracelet")), "run", str(script)],
        cwd=shared_spine.folder,
        env={**os.environ, **shared_spine.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(shared_spine.settle().runs) == 6
    client = MlflowClient(f"sqlite:///{shared_spine.database}")
    experiment = client.get_experiment_by_name("cv")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    (outer,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    folds = sorted((run for run in found if run is not outer), key=lambda run: run.data.params["k"])
    assert (outer.info.run_name, [run.info.run_name for run in folds]) == ("main", ["fold"] * 5)
    assert {run.data.tags["mlflow.parentRunId"] for run in folds} == {outer.info.run_id}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert [run.data.params for run in folds] == [{"k": str(k), "lr": "0.1"} for k in range(5)]
    means = client.get_metric_history(outer.info.run_id, "mean")
    assert [(point.step, point.value) for point in means] == [(k, k / 2) for k in range(5)]
    assert client.get_metric_history(outer.info.run_id, "train/loss") == []
    for k, run in enumerate(folds):
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in losses] == [(step, k + step / 100) for step in range(40)]
        table = client.download_artifacts(run.info.run_id, "tables/errors/step_40.json")
        assert Path(table).read_text() == f'{{"columns":["sample","wrong"],"data":[[{k},true],[{k + 1},null]]}}'


def in_log(shared: Client, name: str) -> list[tuple[str, str]]:
    """Parents and projects of the runs with a name, as the log has them."""
    with closing(open_reader(log_path(shared.home))) as db:
        specs = [wire.RunSpec.FromString(spec) for (spec,) in db.execute("SELECT spec FROM runs")]
    return [(spec.parent, spec.project) for spec in specs if spec.name == name]
