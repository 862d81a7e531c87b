"""From the real log, through real worker processes, into real MLflow stores; into a file where only the way is of interest."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tracelet_collector.delivery import Delivery, Patience
from tracelet_collector.log.base import LogFailed, Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.delivering import HASTY, Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import children_with, lives, until, wait_gone
from tracelet.core.metrics import Metric, Params, RunEnd, RunStatus
from tracelet.proto.v1 import collector_pb2 as wire

T0 = 1_700_000_000.0


def points(count: int, name: str = "loss", start: int = 0) -> list[Metric]:
    return [Metric(name, step / 7, step, T0 + step / 1000) for step in range(start, start + count)]


def to_ledger(run_id: str, ledger: Ledger, python: str) -> wire.RunSpec:
    """A run that goes to a file: where it does not matter what MLflow makes of it, whose import takes seconds."""
    return run_spec(run_id, ledger.target, kind="ledger", interpreter=python)


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


def counted(store: MlflowStore) -> Counter[tuple[str, int, float]]:
    return Counter((point.key, point.step, point.value) for point in store.points())


def test_records_arrive_and_the_account_is_right(tmp_path: Path, store: MlflowStore) -> None:
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, run_spec("r1", store.uri))
        awkward = [
            Metric("loss", math.nan, 1, T0),
            Metric("loss", math.inf, 1, T0),
            Metric("loss", 1.0, 2**63, T0),
            Metric("loss", 1.0, 2**53 + 1, T0),
            Metric("loss", 1.0, 2**53 + 1, T0),
            Metric("fit", 1.0, 1, T0, type="fitness", metadata={"phase": "swim", "n": 3}),
        ]
        writer.write([Params({"lr": 0.1}, T0), *points(2500), *awkward], cut=700)
        writer.write([RunEnd(RunStatus.FAILED, "exit code 3", T0 + 5)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        cursor = desk.cursor("r1")
        assert (cursor.delivered, cursor.collapsed, cursor.rerouted, cursor.dead) == (2504, 0, 1, 1)
        (letter,) = desk.log.dead_letters("r1")
        assert (letter.backend, letter.name) == ("mlflow", "loss")
        assert "9223372036854775808" in letter.point
    assert len(store.points()) == 2505
    assert Counter({("loss", 2**53 + 1, 1.0): 2}) <= counted(store)
    assert store.run()["status"] == "FAILED"
    assert store.params() == {"lr": "0.1"}
    assert store.tags()["tracelet.metric.fit.type"] == "fitness"


def test_what_was_in_the_log_before_is_delivered_without_a_word(
    tmp_path: Path, ledger: Ledger, ledger_python: str
) -> None:
    desk = Desk(tmp_path / "home")
    Writer(desk.log, to_ledger("r1", ledger, ledger_python)).write(points(10))
    with desk:
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
    assert ledger.values("r1") == [step / 7 for step in range(10)]


def test_runs_share_a_worker_in_turn(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    runs = [f"r{number}" for number in range(5)]
    desk = Desk(tmp_path / "home")
    for run_id in runs:
        Writer(desk.log, to_ledger(run_id, ledger, ledger_python)).write(points(1500))
    with desk:
        until(lambda: all(desk.cursor(run_id, "ledger").settled for run_id in runs), 60.0)
        pid = desk.live("r0", "ledger").worker_pid
        assert {desk.live(run_id, "ledger").worker_pid for run_id in runs} == {pid}
    calls = ledger.calls()
    assert {call["pid"] for call in calls} == {pid}
    # None has its second chunk before each has had its first.
    assert [call["items"] for call in calls] == [1000] * 5 + [500] * 5
    assert {call["run"] for call in calls[:5]} == {call["run"] for call in calls[5:]} == set(runs)
    assert all(ledger.values(run_id) == [step / 7 for step in range(1500)] for run_id in runs)


@pytest.mark.faults
def test_a_killed_worker_costs_nothing(tmp_path: Path, store: MlflowStore) -> None:
    kill_the_worker(tmp_path, store, seed=1, kills=2)


@pytest.mark.faults
@pytest.mark.torture
@pytest.mark.parametrize("turn", range(10))
def test_a_killed_worker_costs_nothing_at_length(
    tmp_path: Path, store: MlflowStore, torture_seed: int, turn: int
) -> None:
    """The worker is killed while it delivers to MLflow: 8 kills a round."""
    kill_the_worker(tmp_path, store, seed=torture_seed + turn, kills=8)


def kill_the_worker(tmp_path: Path, store: MlflowStore, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    everything = [*points(2000 * kills), *[Metric("same", 1.0, 1, T0)] * 1000, *points(1000, "more")]
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, run_spec("r1", store.uri))
        writer.write([Params({"lr": 0.1}, T0), *everything], cut=chance.choice([100, 333, 1000]))
        desk.delivery.wake("r1")
        pid = 0
        for _ in range(kills):
            pid = desk.until_worker("r1", other_than=pid)
            # Right after a commit of the cursor; or of the store, when the cursor does not know yet.
            count = chance.choice([lambda: desk.cursor("r1").delivered, store.count])
            goal = count() + chance.randint(0, 1500)
            until(lambda count=count, goal=goal: count() >= goal or desk.cursor("r1").settled, 60.0)
            os.kill(pid, signal.SIGKILL)
        writer.write([RunEnd(RunStatus.FINISHED, "", T0 + 60)])
        desk.delivery.wake("r1")
        desk.until_settled("r1", seconds=90.0)
        assert desk.cursor("r1").delivered == len(everything)
    assert counted(store) == Counter((p.name, p.step, p.value) for p in everything)
    assert store.run()["status"] == "FINISHED"


@pytest.mark.faults
def test_the_collector_dies_with_its_worker_at_work(tmp_path: Path, store: MlflowStore) -> None:
    home = tmp_path / "home"
    desk = Desk(home)
    Writer(desk.log, run_spec("r1", store.uri)).write(points(4_000))
    desk.log.close()
    script = (
        "import sys, time; from pathlib import Path; from tests.support.delivering import Desk\n"
        "desk = Desk(Path(sys.argv[1])).__enter__(); print(desk.until_worker('r1'), flush=True); time.sleep(100)"
    )
    front = subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, text=True)
    assert front.stdout is not None
    worker = int(front.stdout.readline())
    until(lambda: store.count() > 500, 60.0)
    front.kill()
    front.wait(60)
    assert wait_gone(worker, 10.0), "the worker outlives its collector"
    with Desk(home) as desk:
        desk.until_settled("r1", seconds=90.0)
    assert counted(store) == Counter((p.name, p.step, p.value) for p in points(4_000))
    assert len(store.runs()) == 1


def test_stopping_lets_the_chunk_finish_and_ends_the_worker(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    ledger.rule(slow=0.2)
    desk = Desk(tmp_path / "home")
    Writer(desk.log, to_ledger("r1", ledger, ledger_python)).write(points(20_000))
    with desk:
        until(lambda: desk.cursor("r1", "ledger").delivered, 60.0)
        pid = desk.live("r1", "ledger").worker_pid
        desk.delivery.stop(20.0)
        assert not lives(pid)
        delivered = desk.cursor("r1", "ledger").delivered
        assert 0 < delivered < 20_000
        assert len(ledger.rows()) == delivered  # nothing is stored that is not committed
    ledger.rule()
    with Desk(tmp_path / "home") as again:
        until(lambda: again.cursor("r1", "ledger").settled, 60.0)
    assert ledger.values("r1") == [step / 7 for step in range(20_000)]
    assert sum(call["items"] for call in ledger.calls()) == 20_000  # each was given once


def test_stopping_while_the_worker_starts(tmp_path: Path, store: MlflowStore) -> None:
    desk = Desk(tmp_path / "home")
    Writer(desk.log, run_spec("r1", store.uri)).write(points(10))
    desk.delivery.start()
    log = tmp_path / "home" / "worker-mlflow.log"
    until(log.exists, 20.0)
    desk.delivery.stop(5.0)
    assert desk.live("r1").worker_pid == 0
    desk.log.close()


def test_an_idle_worker_ends_and_comes_back(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    with Desk(tmp_path / "home", Patience(first=0.05, most=0.5, idle=0.2)) as desk:
        writer = Writer(desk.log, to_ledger("r1", ledger, ledger_python))
        writer.write(points(10))
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        first = ledger.calls()[0]["pid"]
        assert wait_gone(first, 20.0)
        writer.write(points(10, start=10))
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
    assert ledger.values("r1") == [step / 7 for step in range(20)]
    calls = ledger.calls()
    assert [call["items"] for call in calls] == [10, 10]
    assert calls[0]["pid"] != calls[1]["pid"]


class TestTrouble:
    def test_the_folder_of_the_store_is_missing_and_then_there(self, tmp_path: Path) -> None:
        folder = tmp_path / "later"
        with Desk(tmp_path / "home") as desk:
            Writer(desk.log, run_spec("r1", f"sqlite:///{folder}/mlflow.db")).write(points(5))
            good = MlflowStore.fresh(tmp_path / "good")
            Writer(desk.log, run_spec("r2", good.uri)).write(points(5))
            desk.delivery.wake("r1")
            desk.delivery.wake("r2")
            live = desk.until_state("r1", "paused")
            assert str(folder) in live.last_error
            assert "create it" in live.last_error
            desk.until_settled("r2")  # nobody else waits
            assert desk.cursor("r1").lag_points == 5
            store = MlflowStore.fresh(folder)
            desk.until_settled("r1")
            assert desk.live("r1").state == "ok"
            assert desk.live("r1").last_error == ""
        assert len(store.points()) == 5

    def test_mlflow_is_not_installed_for_the_runs_python(self, tmp_path: Path, bare_python: Path) -> None:
        with Desk(tmp_path / "home") as desk:
            spec = run_spec("r1", "sqlite:////nowhere/mlflow.db", interpreter=str(bare_python))
            Writer(desk.log, spec).write(points(5))
            desk.delivery.wake("r1")
            live = desk.until_state("r1", "paused")
            assert f"{bare_python} -m pip install 'tracelet[mlflow]'" in live.last_error
            assert "needs the package 'mlflow'" in live.last_error
            assert desk.cursor("r1").lag_points == 5

    def test_tracelet_is_not_installed_for_the_runs_python(self, tmp_path: Path, bare_python: Path) -> None:
        for link in (bare_python.parents[1] / "lib").glob("python*/site-packages/*.pth"):
            link.unlink()
        with Desk(tmp_path / "home") as desk:
            spec = run_spec("r1", "sqlite:////nowhere/mlflow.db", interpreter=str(bare_python))
            Writer(desk.log, spec).write(points(5))
            desk.delivery.wake("r1")
            assert f"{bare_python} -m pip install 'tracelet[mlflow]'" in desk.until_state("r1", "paused").last_error

    def test_the_runs_python_is_gone(self, tmp_path: Path) -> None:
        with Desk(tmp_path / "home") as desk:
            gone = str(tmp_path / "venv" / "bin" / "python")
            Writer(desk.log, run_spec("r1", "sqlite:////nowhere/mlflow.db", interpreter=gone)).write(points(5))
            desk.delivery.wake("r1")
            assert gone in desk.until_state("r1", "paused").last_error

    def test_a_backend_that_this_collector_does_not_have(self, tmp_path: Path) -> None:
        with Desk(tmp_path / "home") as desk:
            Writer(desk.log, run_spec("r1", "somewhere", kind="abacus")).write(points(5))
            desk.delivery.wake("r1")
            until(lambda: desk.live("r1", "abacus").state == "paused")
            assert "no exporter for 'abacus'" in desk.live("r1", "abacus").last_error

    def test_bytes_that_nobody_can_decode_are_told(self, tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
        import sqlite3

        desk = Desk(tmp_path / "home")
        for run_id in ("r1", "r2"):
            Writer(desk.log, to_ledger(run_id, ledger, ledger_python)).write(points(5))
        with sqlite3.connect(tmp_path / "home" / "log" / "tracelet.db") as db:
            db.execute("UPDATE batches SET payload = x'ffff' WHERE lsn = (SELECT min(lsn) FROM batches)")
        db.close()
        with desk:
            until(lambda: desk.live("r1", "ledger").state == "retrying", 60.0)
            assert "cannot be decoded" in desk.live("r1", "ledger").last_error
            until(lambda: desk.cursor("r2", "ledger").settled, 60.0)
            assert desk.cursor("r1", "ledger").lag_points == 5
        assert len(ledger.values("r2")) == 5

    def test_a_worker_that_dies_again_and_again_is_told(self, tmp_path: Path, deadly_python: Path) -> None:
        with Desk(tmp_path / "home", HASTY) as desk:
            spec = run_spec("r1", "http://127.0.0.1:1", interpreter=str(deadly_python))
            Writer(desk.log, spec).write(points(5))
            desk.delivery.wake("r1")
            until(lambda: "3 times in a row" in desk.live("r1").last_error, 60.0)
            until(lambda: "its records are not the cause" in desk.live("r1").last_error, 60.0)
            live = desk.live("r1")
            assert live.state == "retrying"
            assert "SIGABRT" in live.last_error
            assert desk.cursor("r1").lag_points == 5

    @pytest.mark.usefixtures("no_grace")
    def test_a_worker_that_hangs_is_replaced(self, tmp_path: Path) -> None:
        python = _with_mlflow(tmp_path / "hanging", "import time; time.sleep(1000)")
        with Desk(tmp_path / "home", dataclasses.replace(HASTY, export=0.3)) as desk:
            Writer(desk.log, run_spec("r1", "http://127.0.0.1:1", interpreter=str(python))).write(points(5))
            desk.delivery.wake("r1")
            first = desk.until_worker("r1")
            assert "gave no answer" in desk.until_state("r1", "retrying").last_error
            assert wait_gone(first, 20.0)
            desk.until_worker("r1", other_than=first)

    def test_an_exporter_that_fails_as_nobody_foresaw(self, tmp_path: Path) -> None:
        python = _with_mlflow(tmp_path / "broken", "raise KeyError('what is this')")
        with Desk(tmp_path / "home") as desk:
            Writer(desk.log, run_spec("r1", "http://127.0.0.1:1", interpreter=str(python))).write(points(5))
            desk.delivery.wake("r1")
            assert "KeyError: 'what is this'" in desk.until_state("r1", "retrying").last_error
            assert "Traceback" in (tmp_path / "home" / "worker-mlflow.log").read_text()

    def test_an_mlflow_that_cannot_be_imported(self, tmp_path: Path) -> None:
        python = _with_mlflow(tmp_path / "broken", "pass", at_import="raise RuntimeError('numpy is too new')")
        with Desk(tmp_path / "home") as desk:
            Writer(desk.log, run_spec("r1", "http://127.0.0.1:1", interpreter=str(python))).write(points(5))
            desk.delivery.wake("r1")
            assert "numpy is too new" in desk.until_state("r1", "paused").last_error


class _FailingLog(SqliteLog):
    """A log whose next commits fail before anything is written, or after all is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fail: list[str] = []

    def commit(self, run_id: str, kind: str, progress: Progress) -> None:
        how = self.fail.pop() if self.fail else ""
        if how == "before":
            raise LogFailed("the disk is full")
        super().commit(run_id, kind, progress)
        if how == "after":
            raise LogFailed("fsync failed")

    def recall(self, run_id: str, kind: str, keys: Sequence[int]) -> Mapping[int, int]:
        if self.fail and self.fail[-1] == "recall":
            self.fail.pop()
            raise LogFailed("cannot be read")
        return super().recall(run_id, kind, keys)


def test_commits_that_fail_lose_and_double_nothing(tmp_path: Path, store: MlflowStore) -> None:
    desk = Desk(tmp_path / "home")
    desk.log.close()
    desk.log = log = _FailingLog(tmp_path / "home" / "log" / "tracelet.db")
    desk.delivery = Delivery(log, desk.home, HASTY)
    log.fail = ["before", "after", "recall", "before"]
    everything = [*points(900), *[Metric("same", 1.0, 1, T0)] * 900]
    Writer(desk.log, run_spec("r1", store.uri)).write(everything, cut=300)
    with desk:
        assert "the log: the disk is full" in desk.until_state("r1", "retrying").last_error
        desk.until_settled("r1")
        assert desk.cursor("r1").delivered == 1800
    assert log.fail == []
    assert counted(store) == Counter((p.name, p.step, p.value) for p in everything)


def test_commits_that_fail_while_another_run_is_under_way(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    """The worker has the next run's chunk when the commit fails, five times in a row: it is not taken from it."""
    desk = Desk(tmp_path / "home")
    desk.log.close()
    desk.log = log = _FailingLog(tmp_path / "home" / "log" / "tracelet.db")
    desk.delivery = Delivery(log, desk.home, HASTY)
    log.fail = ["after", *["before"] * 11]
    names = [f"r{number}" for number in range(4)]
    for name in names:
        Writer(desk.log, to_ledger(name, ledger, ledger_python)).write(points(3000))
    with desk:
        until(lambda: all(desk.cursor(name, "ledger").settled for name in names), 60.0)
    assert log.fail == []
    for name in names:
        assert ledger.values(name) == [step / 7 for step in range(3000)]
    told = [call["run"] for call in ledger.calls()]
    assert (
        len(told) == 12 + 11
    )  # each once, and again after each commit that failed; what was written all the same, once


def test_a_backlog_goes_in_full_chunks_and_a_live_run_in_small_ones(
    tmp_path: Path, ledger: Ledger, ledger_python: str
) -> None:
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, to_ledger("r1", ledger, ledger_python))
        writer.write(points(10_000), cut=100)
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        assert [call["items"] for call in ledger.calls()] == [1000] * 10
        for turn in range(5):  # whoever waited for a full chunk would wait for ever
            writer.write(points(10, start=10_000 + 10 * turn))
            desk.delivery.wake("r1")
            until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        assert [call["items"] for call in ledger.calls()[10:]] == [10] * 5


def test_more_workers_than_seats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pythons, one seat: they take turns, though both have work without end."""
    monkeypatch.setattr("tracelet_collector.delivery.scheduler._WORKERS_PER_KIND", 1)
    monkeypatch.setattr("tracelet_collector.delivery.aftermath._STUBBORN", 10**6)  # failing is no reason to leave, here
    desk = Desk(tmp_path / "home", dataclasses.replace(HASTY, turn=0.1))
    for name in ("one", "two"):
        python = _with_mlflow(tmp_path / name, f"raise OSError('{name} is down')")
        spec = run_spec(name, "http://127.0.0.1:1", interpreter=str(python))
        Writer(desk.log, spec).write(points(5))
    seen: set[int] = set()

    def both_had_several() -> bool:
        pids = {live.worker_pid for live in desk.delivery.live().values()} - {0}
        assert len([pid for pid in pids if lives(pid)]) <= 1
        seen.update(pids)
        return len(seen) >= 4

    with desk:
        until(both_had_several, 60.0)
        for name in ("one", "two"):
            assert f"{name} is down" in desk.live(name).last_error


def test_at_most_four_workers_of_a_kind(tmp_path: Path) -> None:
    """Six servers that are down: each is tried, and never by more than four processes at once."""
    desk = Desk(tmp_path / "home", dataclasses.replace(HASTY, turn=0.1))
    python = _with_mlflow(tmp_path / "python", "raise OSError('it is down')")
    names = [f"r{number}" for number in range(6)]
    for number, name in enumerate(names, 1):
        spec = run_spec(name, f"http://127.0.0.1:{number}", interpreter=str(python))
        Writer(desk.log, spec).write(points(5))
    tried: set[str] = set()
    most = 0

    def all_were_tried() -> bool:
        nonlocal most
        most = max(most, len(children_with(os.getpid(), "tracelet_collector.delivery.worker")))
        tried.update(name for name in names if "it is down" in desk.live(name).last_error)
        return len(tried) == len(names)

    with desk:
        until(all_were_tried, 60.0)
    assert 1 < most <= 4


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python that has tracelet and protobuf, but no MLflow."""
    return _bare(tmp_path / "bare")


@pytest.fixture
def deadly_python(tmp_path: Path) -> Path:
    """A Python whose MLflow kills the process at its first use."""
    return _with_mlflow(tmp_path / "deadly", "import os; os.abort()")


def _with_mlflow(folder: Path, at_use: str, at_import: str = "pass") -> Path:
    """A Python with an `mlflow` that fails in a way of its own."""
    python = _bare(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for module in ("mlflow", "mlflow/entities", "mlflow/exceptions"):
        (packages / module).mkdir()
        (packages / module / "__init__.py").write_text(
            f"{at_import}\n"
            "class MlflowException(Exception): pass\n"
            "class _Stand:\n"
            "    def __init__(self, *a, **k):\n"
            f"        {at_use}\n"
            "MlflowClient = Experiment = Metric = Param = RunTag = ViewType = _Stand\n"
        )
    return python


def _bare(folder: Path) -> Path:
    import google.protobuf

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=180)
    (packages,) = folder.glob("lib/python*/site-packages")
    root = Path(__file__).parents[2]
    (packages / "tracelet.pth").write_text(f"{root}\n{root / 'server'}\n")
    (packages / "google").symlink_to(Path(google.protobuf.__file__).parents[1])
    return folder / "bin" / "python"
