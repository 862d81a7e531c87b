"""A tracelet home for a benchmark: its own collector, its own MLflow store, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tracelet.transport import local
from tracelet.transport.wait import status, wait_delivered

__all__ = ["Home", "temporary_home"]

_START_DEADLINE = 30.0
_IDLE = 600.0


@dataclass(frozen=True, slots=True)
class Home:
    """A home and the store that its runs are delivered to."""

    path: Path

    @property
    def store(self) -> str:
        """The MLflow store's URI."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    def environment(self) -> Mapping[str, str]:
        """For processes that record into this home. Bytecode is kept, as on anybody's machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACELET_", "MLFLOW_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        # Wherever this runs, also where no collector outlives a script: stopping is measured until all is durable.
        settings = {"TRACELET_HOME": str(self.path), "TRACELET_STOP_WAIT": "durable"}
        return {**kept, **settings, "MLFLOW_TRACKING_URI": self.store}

    def start_collector(self) -> local.Endpoint:
        """The collector, started when it does not run."""
        return local.ensure(self.path, _START_DEADLINE, local.Starting(_IDLE))

    def kill_collector(self) -> None:
        """End the collector without a word, as the kernel would."""
        if (endpoint := local.find(self.path)) is not None:
            os.kill(endpoint.pid, signal.SIGKILL)
            self._wait_gone(5.0)

    def stop_collector(self) -> None:
        """Ask the collector to end, and wait for it."""
        if (endpoint := local.find(self.path)) is not None:
            os.kill(endpoint.pid, signal.SIGTERM)
            self._wait_gone(20.0)

    def _wait_gone(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while local.find(self.path) is not None and time.monotonic() < until:
            time.sleep(0.02)

    def durable(self, run_id: str) -> int:
        """Points of a run that are in the collector's log."""
        reply = status(self.start_collector().address, run_id)
        return sum(run.durable for run in reply.runs)

    def wait_delivered(self, run_id: str = "", timeout: float = 300.0) -> None:
        """Wait until everything is delivered.

        Raises:
            TimeoutError: it was not in time.
        """
        if missing := wait_delivered(self.path, run_id, timeout):
            raise TimeoutError(missing)


@contextmanager
def temporary_home(parent: Path | None = None) -> Iterator[Home]:
    """A fresh home, removed afterwards with all that belongs to it.

    Args:
        parent: where to make it; by default the folder of temporary files.
    """
    home = Home(Path(tempfile.mkdtemp(prefix="tracelet-bench-", dir=parent)))
    try:
        yield home
    finally:
        home.stop_collector()
        shutil.rmtree(home.path, ignore_errors=True)
