"""Which run a point belongs to, and what a PyTorchFramework of the user's own does."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from tests.support import runs
from tests.support.spool_points import points
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import MetricType
from tracelet.errors import ConfigurationError
from tracelet.frameworks.pytorch import PyTorchFramework


@pytest.fixture
def writer(tmp_path: Path) -> SummaryWriter:
    return SummaryWriter(str(tmp_path / "tb"))


def in_thread(function: Callable[[], Any], context: contextvars.Context | None = None) -> None:
    failed: list[BaseException] = []

    def body() -> None:
        try:
            (context or contextvars.Context()).run(function)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def names(home: Path, run: Experiment) -> list[str]:
    return [p.name for p in points(home, run.id)]


def test_the_framework_is_there_from_the_start(home: Path) -> None:
    with runs.running(home) as run:
        framework = run._frameworks["pytorch"]
        assert isinstance(framework, PyTorchFramework)
        assert framework.tracking


def test_a_plain_thread_belongs_to_the_only_run(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home) as run:
        in_thread(lambda: writer.add_scalar("a", 1.0, 1))
    assert names(home, run) == ["a"]


def test_trials_in_threads_record_into_their_own_runs(tmp_path: Path, home: Path) -> None:
    barrier = threading.Barrier(3, timeout=120)
    made: dict[str, Experiment] = {}
    failed: list[BaseException] = []

    def trial(name: str) -> None:
        try:
            made[name] = run = runs.start(home)
            writer = SummaryWriter(str(tmp_path / name))
            barrier.wait()
            for step in range(20):
                writer.add_scalar(name, 1.0, step)
            # A thread of the trial sees no context: the writer's own run counts.
            in_thread(lambda: writer.add_scalar(name, 1.0, 20))
            barrier.wait()
            runs.stop(run)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=trial, args=(f"trial{n}",), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    for name, run in made.items():
        assert [(p.tag, p.step) for p in points(home, run.id)] == [(name, step) for step in range(21)]


def test_the_contexts_run_goes_before_the_writers(tmp_path: Path, home: Path) -> None:
    first = runs.start(home)
    writer = SummaryWriter(str(tmp_path))
    context = contextvars.Context()
    second = context.run(lambda: runs.start(home))
    context.run(lambda: writer.add_scalar("second", 1.0, 1))
    writer.add_scalar("first", 1.0, 1)
    context.run(lambda: runs.stop(second))
    context.run(lambda: writer.add_scalar("first again", 1.0, 2))  # the context's run is over
    runs.stop(first)
    assert names(home, first) == ["first", "first again"]
    assert names(home, second) == ["second"]


def test_a_writer_outlives_its_run(tmp_path: Path, home: Path) -> None:
    with runs.running(home) as first:
        writer = SummaryWriter(str(tmp_path))
        writer.add_scalar("a", 1.0, 1)
    writer.add_scalar("nobody", 1.0, 2)
    with runs.running(home) as second:
        writer.add_scalar("b", 1.0, 3)
    assert (names(home, first), names(home, second)) == (["a"], ["b"])


def test_muted_a_writer_of_the_run_is_silent(tmp_path: Path, home: Path) -> None:
    with runs.running(home) as run:
        made_in_it = SummaryWriter(str(tmp_path))
        with active.muted():
            made_in_it.add_scalar("a", 1.0, 1)
        made_in_it.add_scalar("b", 1.0, 1)
    assert names(home, run) == ["b"]


def test_a_second_framework_replaces_the_automatic_one(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home) as run:
        own = PyTorchFramework(patch_tensorboard=True)
        own.initialize(run)
        own.start_tracking()
        assert run._frameworks["pytorch"] is own
        writer.add_scalar("once", 1.0, 1)
        own.stop_tracking()
        writer.add_scalar("not tracked", 1.0, 2)
        own.start_tracking()
        own.start_tracking()
        writer.add_scalar("tracked again", 1.0, 3)
    assert names(home, run) == ["once", "tracked again"]


def test_patch_tensorboard_off_means_no_capture(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home) as run:
        writer.add_scalar("before", 1.0, 1)
        own = PyTorchFramework(patch_tensorboard=False)
        own.initialize(run)
        own.start_tracking()
        writer.add_scalar("captured", 1.0, 2)
        own.log_metric("by hand", 0.5, iteration=1)
    assert names(home, run) == ["before", "by hand"]


def test_patch_tensorboard_off_by_setting(writer: SummaryWriter, home: Path) -> None:
    untouched = SummaryWriter.__dict__["add_scalar"]
    with runs.running(home, pytorch={"patch_tensorboard": False}) as run:
        assert SummaryWriter.__dict__["add_scalar"] is untouched
        writer.add_scalar("captured", 1.0, 2)
        run._frameworks["pytorch"].log_metric("by hand", 0.5, 1)
    assert names(home, run) == ["by hand"]


def test_one_run_without_capture_beside_one_with(tmp_path: Path, home: Path) -> None:
    captured = runs.start(home)
    context = contextvars.Context()
    silent = context.run(lambda: runs.start(home, pytorch={"patch_tensorboard": False}))
    writer = SummaryWriter(str(tmp_path))
    context.run(lambda: writer.add_scalar("silent", 1.0, 1))
    writer.add_scalar("captured", 1.0, 1)
    context.run(lambda: runs.stop(silent))
    runs.stop(captured)
    assert (names(home, captured), names(home, silent)) == (["captured"], [])


def test_log_metric_and_log_enhanced_metric(home: Path) -> None:
    with runs.running(home) as run:
        framework = run._frameworks["pytorch"]
        framework.log_metric("plain", 0.1, 0)
        framework.log_metric("counted", 0.2)
        framework.log_enhanced_metric(
            name="validation_accuracy",
            value=0.95,
            metric_type="accuracy",
            iteration=100,
            metadata={"dataset": "validation", "batch_size": 32, "fraction": 0.5, "final": True, "shape": (1, 2)},
        )
        framework.log_enhanced_metric("fit", 1.0, MetricType.FITNESS, 3)
        framework.log_enhanced_metric("own", 1.0, "a word of mine", 4)
    got = {p.name: p for p in points(home)}
    assert (got["plain"].value, got["plain"].step, got["plain"].step_implied) == (0.1, 0, False)
    assert (got["counted"].step, got["counted"].step_implied) == (0, True)
    enhanced = got["validation_accuracy"]
    assert (enhanced.value, enhanced.step, enhanced.type, enhanced.type_inferred) == (0.95, 100, "accuracy", False)
    assert enhanced.metadata == {
        "dataset": "validation",
        "batch_size": 32,
        "fraction": 0.5,
        "final": True,
        "shape": "(1, 2)",
    }
    assert (got["fit"].type, got["own"].type) == ("fitness", "a word of mine")


def test_before_initialize(capfd: pytest.CaptureFixture[str]) -> None:
    framework = PyTorchFramework()
    with pytest.raises(ConfigurationError, match="initialize"):
        framework.start_tracking()
    framework.log_metric("a", 1.0, 1)
    framework.log_enhanced_metric("a", 1.0, "loss", 1)
    assert capfd.readouterr().err.count("\n") == 1
