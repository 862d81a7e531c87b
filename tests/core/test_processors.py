"""Processors: what they keep, drop, change and add, each once, whatever breaks; and the moving average that ships."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracelet
from tests.support.clients import Client, but_for_waiting, client
from tests.support.processes import collector_pid, until
from tests.support.spool_points import points as spooled
from tests.support.stage import Scene, Stage
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import Gap, Metric, RunEnd, RunStatus
from tracelet.core.processing import Processing
from tracelet.core.recorder import Recorder
from tracelet.core.smoothing import smooth
from tracelet.errors import ConfigurationError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.spoolfile import SpoolInfo
from tracelet.spoolfile.slots import SEGMENT_SIZE, SLOTS_PER_SEGMENT
from tracelet.transport.spool import SpoolWriter


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


@contextmanager
def running(home: Path, **plan: Any) -> Iterator[Experiment]:
    """A run with a sender; it is gone afterwards."""
    run = Experiment(RunPlan(uuid.uuid4().hex, "run", "default", (), home, flush_interval=0.01, **plan))
    run.begin()
    try:
        yield run
    finally:
        run.stop(RunStatus.FINISHED, "", 0.0)
        thread = getattr(run._sender, "_thread", None)
        until(lambda: thread is None or not thread.is_alive(), 30, "the sender ends")


def arrived(stage: Stage) -> list[tuple[str, int, float]]:
    return [(r.name, r.step, r.value) for r in stage.records if isinstance(r, Metric)]


def mixed(point: Metric) -> Any:
    """Keeps, drops, changes, adds; by step."""
    return {
        0: point,
        1: None,
        2: replace(point, value=-point.value),
        3: [point, replace(point, name="added")],
        4: [],
        5: [replace(point, name="first"), replace(point, name="second", metadata={"of": point.name})],
    }[point.step % 6]


def expected(steps: range) -> list[tuple[str, int, float]]:
    found = []
    for step in steps:
        value = float(step)
        found += {
            0: [("a", step, value)],
            2: [("a", step, -value)],
            3: [("a", step, value), ("added", step, value)],
            5: [("first", step, value), ("second", step, value)],
        }.get(step % 6, [])
    return found


BROKEN = {
    "nothing": [],
    "broken off": [Scene(batches=1)] * 3,
    "broken off, acks lost": [Scene(batches=2, acks=False)] * 3,
    "storage in the middle": [Scene(batches=2, goodbye=wire.Goodbye.CODE_STORAGE)] * 2,
    "little credit": [Scene(credit=7)],
}


class TestOnTheWay:
    @pytest.mark.parametrize("trouble", BROKEN)
    def test_each_point_is_decided_once_and_arrives_so(self, home: Path, trouble: str) -> None:
        seen: list[int] = []

        def processor(point: Metric) -> Any:
            seen.append(point.step)
            return mixed(point)

        count = 300 if trouble == "little credit" else 3000
        with Stage(home, *BROKEN[trouble], *[Scene()] * 4) as stage, running(home) as run:
            run.add_processor(processor)
            for step in range(count):
                run.log_metric("a", step, step)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert sorted(arrived(stage)) == sorted(expected(range(count)))
            assert seen == list(range(count))
            assert isinstance(stage.records[-1], RunEnd), "what processors add comes before the end"
            assert stage.lost == 0

    def test_points_with_metadata_and_great_steps(self, home: Path) -> None:
        with Stage(home) as stage, running(home) as run:
            run.add_processor(lambda point: None if point.metadata.get("drop") else replace(point, value=1.0))
            for step in range(200):
                run.log_enhanced("a", step, "loss", step, {"drop": step % 2 == 0, "x" * 500: "y" * 500})
                run.log_metric("b", 2.0, 10**30 + step)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            points = [record for record in stage.records if isinstance(record, Metric)]
            assert sorted((p.name, p.step, p.value) for p in points) == sorted(
                [("a", step, 1.0) for step in range(1, 200, 2)] + [("b", 10**30 + step, 1.0) for step in range(200)]
            )
            assert {len(p.metadata) for p in points if p.name == "a"} == {2}
            assert not [record for record in stage.records if isinstance(record, Gap)]

    def test_across_segments(self, home: Path) -> None:
        count = SLOTS_PER_SEGMENT + 100
        with Stage(home, Scene(batches=50), Scene()) as stage, running(home, stop_timeout=60.0) as run:
            run.add_processor(lambda point: replace(point, name="b") if point.step % 1000 == 0 else point)
            for step in range(count):
                run.log_metric("a", step, step)
            assert run.stop(RunStatus.FINISHED, "", 60.0).durable
            found = arrived(stage)
            assert len(found) == count
            assert sorted(step for _, step, _ in found) == list(range(count))
            assert sorted(step for name, step, _ in found if name == "b") == list(range(0, count, 1000))

    def test_without_a_collector_they_run_all_the_same(self, home: Path) -> None:
        (home / "log").write_text("in the way: no collector comes up")
        with running(home, stop_timeout=10.0) as run:
            run.add_processor(mixed)
            for step in range(600):
                run.log_metric("a", step, step)
            run.end(RunStatus.FINISHED, "")
            found = [(p.name, p.step, p.value) for p in spooled(home)]
            assert sorted(found) == sorted(expected(range(600))), "for the collector that adopts it"

    def test_one_that_is_added_late_sees_later_points(self, home: Path) -> None:
        with Stage(home) as stage, running(home) as run:
            log = [("a", 1), ("b", 2)]
            run.log_metric("a", 0, 0)
            run.add_processor(lambda point: replace(point, value=point.value + 1))
            for name, step in log:
                run.log_metric(name, 0, step)
            run.add_processor(lambda point: replace(point, value=point.value * 10))
            run.log_metric("a", 0, 3)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert sorted(arrived(stage)) == [("a", 0, 0.0), ("a", 1, 1.0), ("a", 3, 10.0), ("b", 2, 1.0)]

    def test_what_a_point_is_stays(self, home: Path) -> None:
        """Its tag, its writer, its type, and that its step was counted."""
        with Stage(home) as stage, running(home) as run:
            run.add_processor(lambda point: replace(point, value=-1.0))
            run.record("train/loss", 1.0, None, 5.5, "runs/a")
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            (point,) = [record for record in stage.records if isinstance(record, Metric)]
        assert point == Metric(
            "train/loss", -1.0, 0, 5.5, "loss", {}, "train/loss", "runs/a", step_implied=True, type_inferred=True
        )

    def test_they_run_on_one_thread_of_ours(self, home: Path) -> None:
        threads: set[str] = set()

        def processor(point: Metric) -> Metric:
            threads.add(threading.current_thread().name)
            return point

        with Stage(home) as stage, running(home) as run:
            run.add_processor(processor)
            run.log_metric("a", 1, 1)
            until(lambda: arrived(stage))
            assert threads == {"tracelet-sender"}

    def test_without_one_nothing_is_in_the_way(self, home: Path) -> None:
        with Stage(home), running(home) as run:
            run.log_metric("a", 1, 1)
            assert run._sender is not None
            assert run._sender.stage is None  # type: ignore[union-attr]


class TestFaults:
    def test_one_that_raises_costs_a_line(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        def processor(point: Metric) -> Metric:
            if point.step % 2:
                raise RuntimeError("no odd steps")
            return replace(point, value=9.0)

        with Stage(home) as stage, running(home) as run:
            run.add_processor(processor)
            for step in range(4):
                run.log_metric("a", step, step)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert sorted(arrived(stage)) == [("a", 0, 9.0), ("a", 1, 1.0), ("a", 2, 9.0), ("a", 3, 3.0)]
        (line,) = capfd.readouterr().err.splitlines()
        assert "processor" in line
        assert "failed (RuntimeError: no odd steps); such points are sent as they were logged" in line

    def test_one_that_would_exit_costs_a_line(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        def processor(point: Metric) -> Metric:
            sys.exit("the second\nline")

        with Stage(home) as stage, running(home) as run:
            run.add_processor(processor)
            run.log_metric("a", 1, 1)
            until(lambda: arrived(stage) == [("a", 1, 1.0)], 30, "the sender lives")
            run.log_metric("a", 2, 2)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert arrived(stage) == [("a", 1, 1.0), ("a", 2, 2.0)]
        (line,) = capfd.readouterr().err.splitlines()
        assert "failed (SystemExit: the second line)" in line

    def test_what_a_signal_handler_raises_in_one_is_not_its_fault(self, home: Path) -> None:
        def handler(*_: object) -> None:
            sys.exit(3)

        def processor(point: Metric) -> Metric:
            signal.raise_signal(signal.SIGUSR1)
            return point

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            with running(home, carried=False) as run:
                run.add_processor(processor)
                run.log_metric("a", 1, 1)
                with pytest.raises(SystemExit):
                    run.process()
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        finally:
            signal.signal(signal.SIGUSR1, before)

    @pytest.mark.parametrize(
        "made",
        [7, "x", [7], [None], {"a": 1}, Metric("a", "x", 1, 1.0), [Metric("a", 1.0, None, 1.0)]],
        ids=repr,  # type: ignore[arg-type]
    )
    def test_what_is_no_point(self, home: Path, capfd: pytest.CaptureFixture[str], made: Any) -> None:
        with Stage(home) as stage, running(home) as run:
            run.add_processor(lambda point: made)
            run.log_metric("a", 1, 1)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert arrived(stage) == [("a", 1, 1.0)]
        assert capfd.readouterr().err.count("\n") == 1

    def test_numbers_of_all_kinds_are_made_some(self, home: Path) -> None:
        import numpy as np

        with Stage(home) as stage, running(home) as run:
            run.add_processor(lambda point: (replace(point, value=np.float32(0.5), step=np.int64(7)) for _ in "x"))
            run.log_metric("a", 1, 1)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert arrived(stage) == [("a", 7, 0.5)]

    def test_not_a_number_is_equal_to_itself(self, home: Path) -> None:
        with Stage(home) as stage, running(home) as run:
            run.add_processor(replace)
            run.log_metric("a", math.nan, 1)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert [name for name, _, _ in arrived(stage)] == ["a"]

    def test_what_cannot_be_called(self, home: Path) -> None:
        with running(home) as run, pytest.raises(TypeError, match="a processor is a function of a Metric"):
            run.add_processor(7)  # type: ignore[arg-type]

    def test_one_that_is_too_slow(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        stop = threading.Event()

        def processor(point: Metric) -> None:
            stop.wait(0.2)

        with Stage(home) as stage, running(home, stop_timeout=1.0) as run:
            run.add_processor(processor)
            for step in range(100):
                run.log_metric("a", step, step)
            run.end(RunStatus.FINISHED, "")
            stop.set()
            assert run.finish(30.0).durable
            steps = [step for _, step, _ in arrived(stage)]
            assert 50 < len(steps) < 100
            assert steps == list(range(100 - len(steps), 100))
        assert "the processors did not get through in 1 s: up to" in capfd.readouterr().err

    def test_one_that_stops_the_run(self, home: Path) -> None:
        with Stage(home) as stage, running(home) as run:
            run.add_processor(lambda point: run.end(RunStatus.FINISHED, ""))
            run.log_metric("a", 1, 1)
            until(lambda: not run.active)
            run.log_metric("a", 2, 2)
            assert run.finish(30.0).durable
            assert arrived(stage) == []

    def test_no_room_for_what_takes_its_place(self, home: Path) -> None:
        """Then the point stays as it was logged: better than nothing."""
        info = SpoolInfo({"run_id": "r"}, {"writer_id": "w", "epoch": 1, "owner": True})
        spool = SpoolWriter(home, info, cap=SEGMENT_SIZE)
        recorder = Recorder(spool, lambda _, tag: tag, {})
        processing = Processing(recorder)
        processing.add(lambda point: replace(point, value=-1.0))
        while spool.claimed < SLOTS_PER_SEGMENT - 1:
            recorder.scalar("", "a", 1.0, 1, 1.0)
        spool._segments._ram_cap = 0
        processing.finish(60.0)
        values = {point.value for point in spooled(home)}
        assert values == {1.0}
        spool.close(remove=True)


STRESS = """
from dataclasses import replace
seen = []
def processor(point):
    seen.append((point.name, point.step))
    return [point, None, replace(point, value=-point.value), [point, replace(point, name="added")]][point.step % 4]
run = tracelet.start_logging(exp_name="stress")
run.add_processor(processor)
def work(name):
    for step in range(3000):
        run.log_metric(name, step, step)
        if step % 1000 == 0:
            time.sleep(0.3)  # over several of the sender's looks
threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
tell("started")
for thread in threads: thread.join()
tracelet.stop_logging()
tell([len(seen), len(set(seen))])
"""


@pytest.mark.faults
def test_a_collector_that_is_killed_while_they_run(home: Path, tmp_path: Path) -> None:
    here = Client(home, tmp_path)
    script = here.start(STRESS, TRACELET_STOP_TIMEOUT="60")
    script.until_told()

    def another_than(killed: int) -> bool:
        return collector_pid(home) not in (None, killed) or script.process.poll() is not None

    for _ in range(2):
        pid = until(lambda: collector_pid(home))
        os.kill(pid, signal.SIGKILL)
        until(partial(another_than, pid))
    done = script.finish()
    assert (done.code, but_for_waiting(done.err), done.told) == (0, "", [9000, 9000])
    assert here.status("stress") == "finished"
    for name in "abc":
        found = sorted(here.points("stress", name))
        assert found == [
            (step, -float(step) if step % 4 == 2 else float(step)) for step in range(3000) if step % 4 != 1
        ]
    assert len(here.points("stress", "added")) == 3 * 750


KILLED = """
def processor(point):
    if point.step >= 50:
        open(GO, "w").close()
        time.sleep(60)
    return tracelet.core.processing.replace(point, value=-point.value)
import tracelet.core.processing
run = tracelet.start_logging(exp_name="killed in a processor")
run.add_processor(processor)
for step in range(100): run.log_metric("a", step, step)
while not os.path.exists(GO): time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_not_processed_arrives_as_it_was(shared: Client, tmp_path: Path) -> None:
    shared.run(f"GO = {str(tmp_path / 'go')!r}" + KILLED)
    assert shared.status("killed in a processor") == "killed"
    found = sorted(shared.points("killed in a processor", "a"))
    assert found == [(step, -float(step) if step < 50 else float(step)) for step in range(100)]


FORKED = """
run = tracelet.start_logging(exp_name="forked")
run.add_processor(lambda point: None)
run.log_metric("a", 1, 1)
for child in range(2):
    if (pid := os.fork()) == 0:
        if child:
            run.log_metric("child", 1, 1); run.log_metric("child", 2, 2)
        os._exit(0)
    os.waitpid(pid, 0)
tracelet.stop_logging()
"""


def test_points_of_a_forked_child_arrive_as_they_were(shared: Client) -> None:
    done = shared.run(FORKED)
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert "processors do not run in this process" in line
    assert shared.status("forked") == "finished"
    until(lambda: len(shared.points("forked", "child")) == 2)
    assert shared.points("forked", "a") == []


def test_under_a_run_that_is_not_begun_yet(home: Path) -> None:
    """As `tracelet run` makes it: it begins with its first record."""
    with Stage(home) as stage:
        run = Experiment(RunPlan(uuid.uuid4().hex, "run", "default", (), home, flush_interval=0.01))
        run.add_processor(lambda point: replace(point, value=-1.0))
        run.log_metric("a", 1, 1)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage)[0][0] == "a"


class TestSmoothing:
    def averages(self, *values: float, window: int, **more: Any) -> list[tuple[str, float]]:
        processor = smooth(window, **more)
        made = [processor(Metric("loss", value, step, 1.0, "loss")) for step, value in enumerate(values)]
        assert all(points[0].value is value for points, value in zip(made, values, strict=True))
        assert all(points[-1].step == step for step, points in enumerate(made))
        return [(point.name, point.value) for points in made for point in points[1:]]

    def test_from_the_first_full_window_on(self) -> None:
        assert self.averages(1.0, 2.0, 3.0, 7.0, window=3) == [("loss_smoothed", 2.0), ("loss_smoothed", 4.0)]
        assert self.averages(1.0, 5.0, window=1) == [("loss_smoothed", 1.0), ("loss_smoothed", 5.0)]

    def test_losses_unless_names_are_given(self) -> None:
        plain, named = smooth(1), smooth(1, "lr")
        loss, rate = Metric("x", 1.0, 1, 1.0, "loss"), Metric("lr", 1.0, 1, 1.0, "learning_rate")
        assert [len(plain(loss)), len(plain(rate)), len(named(loss)), len(named(rate))] == [2, 1, 1, 2]
        assert [len(smooth(1, ["x", "lr"])(point)) for point in (loss, rate)] == [2, 2]
        assert len(smooth(1)(plain(loss)[1])) == 1, "no average of an average"

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(width=64), min_size=1, max_size=30), st.integers(1, 6))
    def test_any_numbers(self, values: list[float], window: int) -> None:
        found = self.averages(*values, window=window)
        assert len(found) == max(len(values) - window + 1, 0)
        for at, (_, average) in enumerate(found):
            part = values[at : at + window]
            if all(map(math.isfinite, part)):
                assert (
                    min(part) - 1e-300 <= average <= max(part)
                    or math.isclose(average, max(part))
                    or math.isclose(average, min(part))
                )
            else:
                assert not math.isfinite(average)

    @pytest.mark.parametrize("window", [0, -1, 1.5, "5", None, True])
    def test_a_window_that_makes_no_sense(self, window: Any) -> None:
        with pytest.raises(ConfigurationError, match="window="):
            smooth(window)

    @pytest.mark.parametrize("names", [5, "", [5], ["loss", ""]])
    def test_names_that_make_no_sense(self, names: Any) -> None:
        with pytest.raises(ConfigurationError, match="names="):
            smooth(2, names)

    def test_each_metric_by_itself(self, home: Path) -> None:
        with Stage(home) as stage, running(home) as run:
            run.add_processor(smooth(5))
            began = time.time()
            for step in range(100):
                run.log_metric("train_loss", step, step)
                run.log_metric("accuracy", step, step)
                run.log_enhanced("x", 2 * step, "loss", step)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            found = [record for record in stage.records if isinstance(record, Metric)]
        smoothed = [point for point in found if point.name == "train_loss_smoothed"]
        assert [(point.step, point.value) for point in smoothed] == [(step, step - 2.0) for step in range(4, 100)]
        assert len([point for point in found if point.name == "x_smoothed"]) == 96
        assert len(found) == 300 + 2 * 96
        assert all(began <= point.wall_time <= time.time() for point in smoothed)


def test_smooth_is_public() -> None:
    assert tracelet.smooth is smooth
