"""`tracelet.testing.capture()`: everything that was logged, and nothing that stays."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

import tracelet
import tracelet.testing
from tests.support.clients import Client
from tests.support.processes import children_with
from tracelet.core import active, captive
from tracelet.core.metrics import Metric, RunStatus
from tracelet.core.processes import known
from tracelet.errors import ConfigurationError
from tracelet.settings import TraceletSettings
from tracelet.testing import capture

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread, file, variable, patch or run; and no home is ever made."""
    folder, home = tmp_path / "temporary", tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TRACELET_HOME", str(home))
    monkeypatch.setenv("TRACELET_PROJECT", "of the environment")
    add_scalar, sys_exit = SummaryWriter.add_scalar, sys.exit
    environment, threads = variables(), set(threading.enumerate())
    yield
    assert variables() == environment
    assert captive.captor() is None
    assert active.running() == []
    assert SummaryWriter.add_scalar is add_scalar
    assert sys.exit is sys_exit
    assert not [t for t in set(threading.enumerate()) - threads if t.name.startswith("tracelet")]
    assert not children_with(os.getpid(), " -m tracelet")
    assert list(folder.iterdir()) == []
    assert not home.exists()


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def steps(points: list[Metric]) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in points]


def train(folder: Path, epochs: int = 3) -> None:
    """Somebody's code, which knows nothing of tracelet."""
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(epochs):
            writer.add_scalar("train_loss", 1 / (epoch + 1), epoch)


class TestWhatIsCaptured:
    def test_code_that_starts_no_run(self, tmp_path: Path) -> None:
        with capture() as cap:
            train(tmp_path)
            assert steps(cap.points("train_loss")) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert steps(cap.points("train_loss")) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert cap.names == ["train_loss"]
        assert cap.status is RunStatus.FINISHED
        assert cap.runs == []

    def test_code_that_starts_one(self, tmp_path: Path) -> None:
        with capture() as cap:
            with tracelet.start_logging(
                "name",
                "project",
                "mlflow",
                api_key="k",
                backend_url="http://127.0.0.1:1",
                config={"lr": 0.1},
                tags=["t"],
            ) as run:
                assert tracelet.get_active_experiment() is run
                train(tmp_path)
                run.log_metric("x", 2, 7)
                run.log_params({"layers": 3})
                run.set_tags({"stage": "test"})
            assert cap.status is RunStatus.FINISHED
        assert cap.names == ["train_loss", "x"]
        assert steps(cap.points("x")) == [(7, 2.0)]
        assert cap.params == {"lr": 0.1, "layers": 3}
        assert cap.tags == {"t": "true", "stage": "test"}
        assert [(each.name, each.project) for each in cap.runs] == [("name", "project")]

    def test_a_run_that_is_not_stopped_ends_with_the_block(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            assert cap.status is RunStatus.RUNNING
        assert (cap.status, run.active) == (RunStatus.FINISHED, False)

    def test_what_leaves_the_block_fails_the_run(self) -> None:
        cap = capture()
        with pytest.raises(ZeroDivisionError), cap:
            _ = 1 / (tracelet.start_logging() is None)
        assert cap.status is RunStatus.FAILED

    def test_several_runs(self) -> None:
        with capture() as cap:
            for value in (1.0, 2.0):
                with tracelet.start_logging(f"run {value:.0f}") as run:
                    run.log_metric("a", value, 0)
        assert steps(cap.points("a")) == [(0, 1.0), (0, 2.0)]
        assert [steps(cap.points("a", run)) for run in cap.runs] == [[(0, 1.0)], [(0, 2.0)]]

    def test_labels_of_writers(self, tmp_path: Path) -> None:
        with capture() as cap:
            with SummaryWriter(str(tmp_path / "train")) as one, SummaryWriter(str(tmp_path / "test")) as two:
                one.add_scalar("loss", 1, 0)
                two.add_scalar("loss", 2, 0)
        assert cap.names == ["train/loss", "test/loss"]

    def test_enhanced_metrics_and_steps_that_were_counted(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_enhanced("a", 1.5, "fitness", 3, {"population": 50})
            run.log_metric("b", 1)
        (a,), (b,) = cap.points("a"), cap.points("b")
        assert (a.type, a.metadata, a.step_implied) == ("fitness", {"population": 50}, False)
        assert (b.step, b.step_implied) == (0, True)

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_media_with_their_content(self, size: int) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_text("notes", "x" * size, 3)
            (media,) = cap.media("notes")
            assert media.content == b"x" * size
        (media,) = cap.media()
        assert (media.kind, media.step, media.content) == ("text", 3, b"x" * size)
        assert cap.media("other") == cap.points() == []

    @pytest.mark.parametrize("size", [10, 1_000_000])
    def test_artifacts_with_their_content(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "model.bin").write_bytes(b"1" * size)
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_artifact(tmp_path / "model.bin")
            (tmp_path / "model.bin").write_bytes(b"2" * size)
            run.log_artifact(tmp_path / "model.bin")
        assert list(cap.artifacts) == ["model.bin"]
        assert cap.artifacts["model.bin"].content == b"2" * size

    def test_processors_are_applied(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.add_processor(tracelet.smooth(2))
            run.add_processor(lambda point: None if point.name == "dropped" else point)
            for step in range(3):
                run.log_metric("loss", step, step)
                run.log_metric("dropped", step, step)
                assert len(cap.points("loss_smoothed")) == step
        assert steps(cap.points("loss_smoothed")) == [(1, 0.5), (2, 1.5)]
        assert cap.names == ["loss", "loss_smoothed"]

    def test_a_run_that_goes_on(self) -> None:
        with capture() as cap:
            for step in range(2):
                with tracelet.start_logging("n", run_id="mine", resume="auto") as run:
                    run.log_metric("a", step, step)
            with pytest.raises(ConfigurationError, match="there is a run 'mine'"):
                tracelet.start_logging(run_id="mine")
        assert steps(cap.points("a")) == [(0, 0.0), (1, 1.0)]

    def test_a_script_that_says_disabled(self) -> None:
        with capture() as cap:
            tracelet.start_logging(mode="disabled").log_metric("a", 1, 1)
        assert cap.points() == []

    def test_many_points(self) -> None:
        """More than a segment of a spool holds."""
        with capture() as cap:
            run = tracelet.start_logging()
            for step in range(140_000):
                run.log_metric("a", step, step)
            assert len(cap.points("a")) == 140_000
        assert steps(cap.points("a")) == [(step, float(step)) for step in range(140_000)]


class TestWhereItComesFrom:
    def test_threads(self, tmp_path: Path) -> None:
        def work(number: int) -> None:
            with SummaryWriter(str(tmp_path / f"w{number}")) as writer:
                for step in range(100):
                    writer.add_scalar("a", step, step)

        with capture() as cap:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(cap.points()) == 400

    def test_a_run_that_a_thread_starts(self) -> None:
        with capture() as cap:
            thread = threading.Thread(target=lambda: tracelet.start_logging().log_metric("a", 1, 1))
            thread.start()
            thread.join()
            tracelet.get_active_experiment().log_metric("b", 1, 1)  # type: ignore[union-attr]
        assert cap.names == ["a", "b"]
        assert len({run.id for run in cap.runs}) == 1

    def test_a_forked_child(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_metric("parent", 1, 1)
            if (pid := os.fork()) == 0:
                run.log_metric("child", 2, 2)
                os._exit(0)
            os.waitpid(pid, 0)
        assert cap.names == ["parent", "child"]

    def test_a_child_that_leaves_the_block_leaves_the_folder(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_metric("a", 1, 1)
            pid = os.fork()
            if pid == 0:
                try:
                    cap.__exit__(None, None, None)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            assert cap.names == ["a"]

    def test_a_spawned_child_that_was_given_the_run(self) -> None:
        with capture() as cap:
            run = tracelet.start_logging()
            run.log_metric("parent", 1, 1)
            child = multiprocessing.get_context("spawn").Process(target=log_to, args=(run,))
            child.start()
            child.join(60)
            assert child.exitcode == 0
        assert cap.names == ["parent", "child"]

    def test_another_program_records_nothing(self, tmp_path: Path) -> None:
        code = "import tracelet; run = tracelet.start_logging(); run.log_metric('a', 1, 1); print(run.active)"
        with capture() as cap:
            tracelet.start_logging()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True)
        assert (done.stdout, done.stderr) == ("False\n", "")
        assert cap.points() == []


def log_to(run: Any) -> None:
    run.log_metric("child", 2, 2)


class TestApart:
    def test_settings_of_the_environment_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            for name, value in {"DISABLED": "1", "RUN_ID": "launched", "RUN_OWNER": "1"}.items():
                patch.setenv(f"TRACELET_{name}", value)
            before = variables()
            with capture() as cap:
                run = tracelet.start_logging()
                assert run.project == "default"
                assert run.id != "launched"
                run.log_metric("a", 1, 1)
            assert cap.names == ["a"]
            assert variables() == before

    def test_a_home_of_the_codes_own_is_not_touched(self, tmp_path: Path) -> None:
        with capture() as cap:
            tracelet.start_logging(settings=TraceletSettings(home=tmp_path / "home")).log_metric("a", 1, 1)
        assert cap.names == ["a"]

    def test_one_in_another(self) -> None:
        with capture() as outer:
            run = tracelet.start_logging()
            run.log_metric("before", 1, 1)
            with capture() as inner:
                tracelet.start_logging().log_metric("inside", 1, 1)
            assert tracelet.get_active_experiment() is run
            run.log_metric("after", 1, 1)
        assert (outer.names, inner.names) == (["before", "after"], ["inside"])

    def test_a_run_outside_goes_on_behind_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "outside"
        script = f"""
import os
from torch.utils.tensorboard import SummaryWriter
import tracelet.testing
run = tracelet.start_logging(exp_name="outside")
writer = SummaryWriter({str(tmp_path / "log")!r})
writer.add_scalar("before", 1, 1)
with tracelet.testing.capture() as cap:
    writer.add_scalar("inside", 1, 1)
assert cap.names == ["inside"], cap.names
writer.add_scalar("after", 1, 1)
assert tracelet.get_active_experiment() is run
assert os.environ["TRACELET_RUN_ID"] == run.id
tracelet.stop_logging()
assert not os.environ.get("TRACELET_RUN_ID")  # what is started now must not join the run
"""
        outside = Client(home, tmp_path)
        try:
            done = outside.run(script)
            assert (done.code, done.err) == (0, "")
            assert [point.name for point in outside.records("outside", Metric)] == ["before", "after"]
        finally:
            from tests.support.processes import stop_collector

            stop_collector(home)

    def test_one_for_each_block(self) -> None:
        cap = capture()
        with cap:
            pass
        with pytest.raises(RuntimeError, match="each block needs a capture"), cap:
            pass

    def test_a_start_that_fails_is_undone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise OSError("no room")

        with monkeypatch.context() as patch:
            patch.setattr("tracelet.lifetime.activate", broken)
            with pytest.raises(OSError, match="no room"):
                capture().__enter__()

    def test_waiting_does_not(self) -> None:
        with capture() as cap:
            tracelet.start_logging().log_metric("a", 1, 1)
            tracelet.stop_logging("delivered")
            run = tracelet.start_logging()
            assert (run.url, run.links(wait=30)) == (None, {})
        assert cap.names == ["a"]

    def test_nothing_is_known_of_the_runs_afterwards(self) -> None:
        with capture() as cap:
            tracelet.start_logging().log_metric("a", 1, 1)
        (run,) = cap.runs
        run.log_metric("late", 1, 1)
        assert cap.names == ["a"]
        assert known(run.id) is run
        assert replace(run.plan, name="x").name == "x"


BARE = """
import sys
for missing in ("mlflow", "torch", "tensorboard", "grpc"):
    sys.modules[missing] = None
import threading
import tracelet
with tracelet.testing.capture() as cap:
    with tracelet.start_logging(backend="mlflow") as run:
        run.log_metric("a", 1.5, 3)
    assert [(p.step, p.value) for p in cap.points("a")] == [(3, 1.5)]
assert threading.active_count() == 1
"""


def test_neither_tracker_nor_torch_nor_grpc_is_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FIXTURE = """
import pytest, tracelet.testing

@pytest.fixture
def cap():
    with tracelet.testing.capture() as captured:
        yield captured

@pytest.mark.parametrize("number", range(6))
def test_it(cap, number):
    tracelet.start_logging().log_metric("a", number, 1)
    assert [point.value for point in cap.points("a")] == [float(number)]
"""


def test_as_a_fixture_in_several_workers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FIXTURE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
