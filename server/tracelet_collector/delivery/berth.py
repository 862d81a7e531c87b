"""The place of a lane's worker: taken, filled, lost and given up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.backoff import Backoff, Patience
from tracelet_collector.delivery.course import State
from tracelet_collector.delivery.process import WorkerProcess
from tracelet_collector.delivery.seats import Seats
from tracelet_collector.delivery.spawner import Spawner
from tracelet_collector.exporters.base import ExportError, Paused, Unauthorized

__all__ = ["Berth", "LaneKey", "NoWorker"]

_GRACE = 2.0  # for a worker that is idle to end by itself
_logger = logging.getLogger("tracelet_collector.delivery")


class NoWorker(Exception):
    """None can be had now; the berth knows why, and until when."""


class LaneKey(NamedTuple):
    """What a worker is made for.

    `server` is the target when it is a server: one that does not answer holds up nobody but its own runs. Local files have
    it empty, and share a worker, until one of them is the end of workers (see `Switchboard.set_apart`).
    """

    kind: str
    interpreter: str
    credentials: str
    server: str

    @classmethod
    def of(cls, backend: wire.BackendSpec) -> LaneKey:
        """The lane of a backend."""
        local = backend.target.startswith(("sqlite:", "file:")) or "://" not in backend.target
        return cls(backend.kind, backend.interpreter, backend.credentials, "" if local else backend.target)


class Berth:
    """At most one worker of a key.

    Used by the lane's thread, except for `pid`, `trouble` and `terminate`.

    Args:
        key: what the worker is made for.
        home: tracelet's home.
        spawner: starts it.
        seats: of its kind.
        patience: how long to wait for what.
        nudge: called, from any thread, when the berth should be looked at again.

    Attributes:
        trouble: why no worker could be started, and whether that heals; `("ok", "")` when one could.
        waits: for a seat: there is no use in asking before the next nudge.
    """

    def __init__(
        self,
        key: LaneKey,
        home: Path,
        spawner: Spawner,
        seats: Seats,
        patience: Patience,
        nudge: Callable[[], None],
    ) -> None:
        self.trouble: tuple[State, str] = "ok", ""
        self.waits = False
        self._key = key
        self._home = home
        self._spawner = spawner
        self._seats = seats
        self._patience = patience
        self._nudge = nudge
        self._start = Backoff(patience)
        self._crash = Backoff(patience)  # of workers that fail over one chunk after the other
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._closed = False
        self._since = 0.0

    @property
    def filled(self) -> bool:
        """There is a worker."""
        return self._ready

    @property
    def holds(self) -> bool:
        """The worker has something open that another one would have to build anew."""
        with self._lock:
            return self._worker is not None and self._ready and self._worker.holds

    @property
    def spent(self) -> bool:
        """The worker has given its last answer."""
        with self._lock:
            return self._worker is not None and self._worker.spent

    @property
    def pid(self) -> int:
        """The worker's process; 0 when there is none."""
        with self._lock:
            return self._worker.pid if self._worker is not None and self._ready else 0

    @property
    def until(self) -> float:
        """The monotonic time before which no worker is to be asked for."""
        return 0.0 if self._ready else max(self._start.until, self._crash.until)

    def must_yield(self, busy: bool) -> bool:
        """Others wait for a seat, and this one has no work or has had its turn."""
        return self._ready and self._seats.wanted and (not busy or time.monotonic() > self._since + self._patience.turn)

    def worker(self) -> WorkerProcess:
        """The worker; started, when there is none.

        Raises:
            NoWorker: none can be had now.
            Unauthorized: its credentials cannot be read. Other ones may be, for the run that asks.
        """
        if self._worker is not None:
            if self._worker.pid:
                return self._worker
            self.vacate()  # it died while nobody looked
        self.waits = True
        if not self._seats.take(self, self._nudged):
            raise NoWorker
        self.waits = False
        try:
            return self._fill()
        except Unauthorized:
            self.vacate()
            raise
        except ExportError as error:
            self.vacate()
            if isinstance(error, Paused):
                self._start.paused()
            else:
                self._start.failed()
            self._troubled("paused" if isinstance(error, Paused) else "retrying", str(error))
            raise NoWorker from error
        except BaseException:
            self.vacate()
            self._start.failed()
            raise

    def went_well(self) -> None:
        """The worker delivered something."""
        self._crash.succeeded()

    def crashed(self) -> None:
        """The worker failed over a chunk, as the one before it did over another: the next one is not started at once."""
        self._crash.failed()

    def vacate(self) -> None:
        """End the worker, if there is one, and give up the seat or the wait for one."""
        with self._lock:
            worker, self._worker, self._ready = self._worker, None, False
        if worker is not None:
            worker.close(_GRACE)
        self.waits = False
        self._seats.leave(self)

    def close(self) -> None:
        """Start no more workers; one that is being started is killed."""
        with self._lock:
            self._closed = True
            starting = None if self._ready else self._worker
        if starting is not None:
            starting.terminate()

    def terminate(self) -> None:
        """Kill the worker, whatever it does."""
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.terminate()

    def _fill(self) -> WorkerProcess:
        kind, interpreter, credentials, _ = self._key
        worker = WorkerProcess.launch(self._spawner, self._home, kind, interpreter, credentials, self._patience)
        with self._lock:
            self._worker = worker
            if self._closed:
                worker.terminate()
        worker.greet()
        with self._lock:
            self._ready = True
        self._since = time.monotonic()
        self._start.succeeded()
        self._troubled("ok", "")
        _logger.info("worker %d delivers to %s, with %s", worker.pid, kind, interpreter)
        return worker

    def _troubled(self, state: State, error: str) -> None:
        if error and self.trouble != (state, error):
            _logger.warning("no worker for %s: %s: %s", self._key.kind, state, error)
        self.trouble = state, error

    def _nudged(self) -> None:
        self.waits = False
        self._nudge()
