"""`tracelet replay`: a past run to a store that it never went to, and once more to one that it did; real MLflow."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tracelet_collector.home import log_path
from tracelet_collector.log.base import Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import writer_spec
from tests.support.commands import tracelet
from tests.support.delivering import Desk, Writer, run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.spools import SlotWriter
from tracelet.core.metrics import Metric, RunEnd, RunStatus
from tracelet.transport import local
from tracelet.transport.wait import status

T0 = 1_700_000_000.0
NO_PYTHON = "/bin/false"  # nothing is delivered, and no MLflow imported for it


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "other")


RUN = [
    *(Metric("loss", step / 7, step, T0 + step / 1000) for step in range(1000)),
    RunEnd(RunStatus.FINISHED, "", T0 + 5),
]


@pytest.fixture
def run_id(home: Path, store: MlflowStore) -> str:
    """A run that is delivered, as the log has it, in a home without a collector; `store` is as empty as before."""
    log = SqliteLog(log_path(home))
    Writer(log, run_spec("run-of-1000", store.uri)).write(RUN)
    chunk = log.read("run-of-1000", "mlflow", 10**6, 10**9)
    assert chunk is not None
    log.commit("run-of-1000", "mlflow", Progress(chunk.until, delivered=1000))
    log.close()
    return "run-of-1000"


@pytest.fixture
def delivered(home: Path, store: MlflowStore) -> str:
    """A run that was delivered to `store`, in a home without a collector."""
    with Desk(home) as desk:
        Writer(desk.log, run_spec("run-of-1000", store.uri)).write(RUN)
        desk.delivery.wake("run-of-1000")
        desk.until_settled("run-of-1000")
    return "run-of-1000"


def counted(store: MlflowStore) -> Counter[tuple[str, int, float]]:
    return Counter((point.key, point.step, point.value) for point in store.points())


EVERYTHING = Counter(("loss", step, step / 7) for step in range(1000))


def replay(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return tracelet("replay", *words, cwd=folder, environment=environment, seconds=120)


def test_to_a_second_store(run_id: str, store: MlflowStore, other: MlflowStore, home: Path, tmp_path: Path) -> None:
    done = replay(tmp_path, "run-of", "--to", f"mlflow={other.uri}")
    assert (done.stderr, done.returncode) == ("", 0)
    slot, _, target = (
        done.stdout.splitlines()[0].partition(" goes to ")[2].partition(" for the first time: 1,000 points to ")
    )
    assert slot.startswith("mlflow@")
    assert target == other.uri
    assert done.stdout.splitlines()[-1] == f"{slot} has it: 1,000 delivered"
    assert counted(other) == EVERYTHING
    assert other.run()["status"] == "FINISHED"
    assert store.all_points() == []
    assert store.runs() == []
    (run,) = status(local.ensure(home, 60.0).address, timeout=60.0).runs
    assert [(backend.slot, backend.delivered) for backend in run.backends] == [("mlflow", 1000), (slot, 1000)]
    assert slot in tracelet("status", cwd=tmp_path).stdout
    # A script that goes on with the run knows its own store, and the replay's gets what is new.
    again = replay(tmp_path, run_id, "--to", f"mlflow={other.uri}")
    assert again.returncode == 2
    assert f"goes to {slot} already" in again.stderr
    assert "--again" in again.stderr


def test_the_place_is_the_one_of_a_script(run_id: str, other: MlflowStore, tmp_path: Path) -> None:
    done = replay(tmp_path, "name of run-of-1000", "--to", "mlflow", MLFLOW_TRACKING_URI=other.uri)
    assert done.returncode == 0, done
    assert counted(other) == EVERYTHING


def test_once_more(delivered: str, store: MlflowStore, home: Path, tmp_path: Path) -> None:
    before = store.all_points()
    (real,) = store.runs()
    done = replay(tmp_path, delivered, "--to", f"mlflow={store.uri}", "--again")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "goes to mlflow once more: 1,000 points" in done.stdout
    assert store.all_points() == before  # MLflow keeps one of two equal points
    assert store.runs() == [real]
    # And to a store from which everything was deleted.
    store.path.unlink()
    fresh = MlflowStore.fresh(store.path.parent)
    assert replay(tmp_path, delivered, "--to", f"mlflow={store.uri}", "--again").returncode == 0
    assert counted(fresh) == EVERYTHING


def test_without_waiting(run_id: str, other: MlflowStore, home: Path, tmp_path: Path) -> None:
    done = replay(tmp_path, run_id, "--to", f"mlflow={other.uri}", "--no-wait")
    assert (done.stderr, done.returncode) == ("", 0)
    assert len(done.stdout.splitlines()) == 1
    assert tracelet("wait", run_id, cwd=tmp_path).returncode == 0
    assert counted(other) == EVERYTHING


def test_what_cannot_be_delivered_is_told_in_time(run_id: str, home: Path, tmp_path: Path) -> None:
    done = replay(tmp_path, run_id, "--to", "mlflow=http://127.0.0.1:1", "--timeout", "1")
    assert done.returncode == 1
    assert "mlflow@127.0.0.1:1 lacks 1000 of 1000 points" in done.stderr


def test_only_the_replay_is_waited_for(home: Path, other: MlflowStore, tmp_path: Path) -> None:
    log = SqliteLog(log_path(home))
    writer = Writer(log, run_spec("r1", "http://127.0.0.1:1", interpreter=NO_PYTHON))
    writer.write([Metric("loss", step / 7, step, T0 + step / 1000) for step in range(1000)])  # it goes on
    log.close()
    done = replay(tmp_path, "r1", "--to", f"mlflow={other.uri}")
    assert done.returncode == 0, done
    assert counted(other) == EVERYTHING


def test_a_run_that_a_dead_process_left(home: Path, other: MlflowStore, tmp_path: Path) -> None:
    spool = SlotWriter(home, run_spec("left", "http://127.0.0.1:1", interpreter=NO_PYTHON), writer_spec())
    spool.define()
    spool.points(10)
    spool.end()
    spool.die()
    done = replay(tmp_path, "left", "--to", f"mlflow={other.uri}")
    assert done.returncode == 0, done
    assert len(other.points()) == 10


@pytest.fixture
def two(home: Path) -> None:
    """Two runs of one name."""
    log = SqliteLog(log_path(home))
    for run_id in ("twin-1", "twin-2"):
        Writer(log, run_spec(run_id, "http://127.0.0.1:1", name="twin")).write([Metric("loss", 1.0, 1, T0)])
    log.close()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["twin", "--to", "mlflow"], "2 runs are called 'twin': say which by its id: twin-1 ("),
        (["twin-", "--to", "mlflow"], "2 runs are called"),
        (["nobody", "--to", "mlflow"], "'nobody' is neither a run's id or name"),
        (["twin-1", "--to", "nothing"], "unknown backend 'nothing'"),
        (["twin-1", "--to", "mlflow="], "no target behind the ="),
        (["twin-1", "--to", "mlflow=sqlite:///:memory:"], "is gone when its process ends"),
        (["twin-1", "--to", "mlflow=a/folder"], "is a folder"),
        (["twin-1", "--to", "mlflow=http://127.0.0.1:1"], "goes to mlflow already"),
        (["twin-1"], "Missing option '--to'"),
    ],
)
def test_bad_words(two: None, tmp_path: Path, words: list[str], complaint: str) -> None:
    done = replay(tmp_path, *words)
    assert done.returncode == 2, done
    assert complaint in done.stderr
