"""Retention: what is old, or too much, leaves the log and the store of blobs; never what a tracker does not have yet.

A run may go when it has ended, every backend has all of it, no letter of it is to be tried again, and nobody is writing it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tracelet_collector.blobs import BlobStore
from tracelet_collector.log.base import Log, LogFailed

__all__ = ["Limits", "Retention"]

_EVERY: Final = 600.0
_PAUSE: Final = 0.02  # between two steps: whoever appends comes in between
_DAY: Final = 86_400.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long records are kept.

    Attributes:
        days: after a run's end; 0 for ever.
        bytes: of the log and the content that its records name; beyond that the oldest runs go. 0 for no limit.
    """

    days: float = 30.0
    bytes: int = 20 * 2**30


class Retention:
    """The thread that retires runs.

    Args:
        log: the log.
        blobs: the content that its records name.
        limits: how long records are kept.
        in_use: whether somebody writes a run now, or has left something of it that is not in the log.
        every: seconds between two looks.
    """

    def __init__(
        self, log: Log, blobs: BlobStore, limits: Limits, in_use: Callable[[str], bool], every: float = _EVERY
    ) -> None:
        self._log = log
        self._blobs = blobs
        self._limits = limits
        self._in_use = in_use
        self._every = every
        self._busy = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    @property
    def busy(self) -> bool:
        """It is deleting something."""
        return self._busy

    def start(self) -> None:
        """Start the thread, which looks at once."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """End it after the step under way; the next collector goes on.

        Args:
            deadline: seconds to wait.
        """
        self._stopping.set()
        self._thread.join(deadline)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except (LogFailed, OSError) as error:
                _log.warning("nothing more can be retired now: %s", error)
            except Exception:
                _log.exception("retiring runs")
            finally:
                self._busy = False
            self._stopping.wait(self._every)

    def look(self) -> None:
        """Go on with what was cut short, then retire what is due.

        Raises:
            LogFailed, OSError: something could not be deleted now.
        """
        freed = self._take(self._log.purge(self._blobs.remove))
        retired = 0
        for run in self._log.retirable():
            if self._stopping.is_set() or not (why := self._due(run.since)):
                break
            if not self._in_use(run.run_id) and self._log.retire(run.run_id):
                retired += 1
                _log.info("a run is retired: %s", why, extra={"run": run.run_id})
                freed = self._take(self._log.purge(self._blobs.remove)) or freed
        if freed or retired:
            self._take(self._log.shrink())

    def _due(self, since: float) -> str:
        """Why a run that nobody needs goes, when no older one is left; empty: it stays."""
        if self._limits.days and time.time() - since > self._limits.days * _DAY:
            return f"it ended more than {self._limits.days:g} days ago"
        if self._limits.bytes and self._log.size() > self._limits.bytes:
            return f"the log has more than {self._limits.bytes} bytes"
        return ""

    def _take(self, steps: Iterator[None]) -> bool:
        """Do steps, with room for others between them. False: there was nothing to do."""
        any_step = False
        for _ in steps:
            any_step = self._busy = True
            if self._stopping.wait(_PAUSE):
                break
        return any_step
