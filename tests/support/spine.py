"""The whole way of a test: a home, an MLflow store, and what arrived in both."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import BUSY, collector_pid, end_all_of, stop_collector, until
from tests.support.trainers import PLAIN, Trainer
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import local
from tracelet.transport.wait import missing, status, wait_delivered

_IDLE = 600.0  # of the collector of a home that is shared: longer than what lies between two tests that use it


@dataclass(frozen=True)
class Spine:
    """A home, perhaps shared, and a store of their own.

    Attributes:
        home: TRACELET_HOME.
        folder: working directory of the scripts; `mlflow.db` lies in it.
        others: ids of runs in the home that are none of this test's.
    """

    home: Path
    folder: Path
    others: frozenset[str] = frozenset()

    @property
    def database(self) -> Path:
        """The MLflow store."""
        return self.folder / "mlflow.db"

    @property
    def environment(self) -> dict[str, str]:
        """What a script needs to find both."""
        return {"TRACELET_HOME": str(self.home), "MLFLOW_TRACKING_URI": f"sqlite:///{self.database}"}

    def trainer(self, steps: int, pace: float = 0.0, script: str = PLAIN, **environment: str) -> Trainer:
        """Start a script."""
        return Trainer(self.folder, self.environment | environment, steps, pace, script)

    def status(self) -> wire.StatusReply:
        """What the running collector says; of this test's runs only."""
        reply = status(local.ensure(self.home, 60.0).address, timeout=60.0)
        for run in [run for run in reply.runs if run.run_id in self.others]:
            reply.runs.remove(run)
        return reply

    def run(self) -> wire.RunState:
        """The only run."""
        (run,) = self.status().runs
        return run

    def settle(self, seconds: float = 90.0) -> wire.StatusReply:
        """Wait until everything of this test is delivered, and check the books."""
        if self.others:
            until(lambda: not missing(self.status()), seconds, "everything is delivered")
        else:
            lacking = wait_delivered(self.home, timeout=seconds * BUSY)
            assert not lacking, lacking
        reply = self.status()
        for run in reply.runs:
            for b in run.backends:
                assert run.durable == b.delivered + b.collapsed + b.rerouted + b.dead + b.lag_points
                assert b.lag_points == 0
        return reply

    def kill_collector(self) -> None:
        """Signal 9 to the collector that serves now."""
        pid = until(lambda: collector_pid(self.home), what="a collector")
        os.kill(pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        """Signal 9 to the worker that delivers now."""
        pid = until(
            lambda: next((b.worker_pid for run in self.status().runs for b in run.backends), 0), what="a worker"
        )
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended by itself, as an idle one does

    def stored(self, key: str = "train/loss") -> Counter[tuple[int, float]]:
        """Rows of a metric in MLflow: how often each (step, value) is there."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)) as db:
            rows = db.execute("SELECT step, value FROM metrics WHERE key = ?", (key,)).fetchall()
        return Counter((step, value) for step, value in rows)

    def tracked(self) -> list[str]:
        """Statuses of the runs in MLflow."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)) as db:
            return [row[0] for row in db.execute("SELECT status FROM runs")]


@contextmanager
def shared_home() -> Iterator[Path]:
    """A home whose collector, and MLflow worker, stay warm from one test to the next.

    To start both takes seconds. It is for tests that are about what arrives, not about the collector's life, nor about what
    a home has in it: there are others' runs. A test that kills the collector does no harm: the next one starts another.
    """
    home = Path(tempfile.mkdtemp(prefix="tlt-"))
    local.ensure(home, 60.0, local.Starting(_IDLE))
    try:
        yield home
    finally:
        stop_collector(home)
        end_all_of(home)
        shutil.rmtree(home, ignore_errors=True)
