"""Group commit: everything that is queued goes into one transaction of the log, and is answered when that is durable."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from tracelet_collector.log.base import Append, Log, LogFailed, SequenceGap

__all__ = ["Committer", "Outcome", "Pending", "Rejected"]

_GROUP_BATCHES: Final = 4096
_GROUP_BYTES: Final = 32 * 1024 * 1024
_WAIT: Final = 60.0
_logger = logging.getLogger(__name__)


class Rejected(Exception):
    """The log cannot hold this batch, though it passed the checks: a fault of ours."""


Outcome: TypeAlias = "int | SequenceGap | LogFailed | Rejected"


@dataclass(frozen=True, slots=True)
class Pending:
    """A validated batch on its way into the log.

    Attributes:
        points: in the batch.
        done: called on the committer's thread: with the stream's next position, which is durable then, or why not.
    """

    run_id: str
    append: Append
    points: int
    done: Callable[[Outcome], None]


class Committer:
    """The thread that writes batches to the log.

    Args:
        log: the log.
        committed: called with the id of each run that a commit brought something for.
    """

    def __init__(self, log: Log, committed: Callable[[str], None]) -> None:
        self._log = log
        self._committed = committed
        self._queue: deque[Pending] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self._failing = False
        self._under_way: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, pending: Pending) -> None:
        """Queue a batch."""
        with self._change:
            if not self._stopping:
                self._queue.append(pending)
                self._under_way[pending.run_id] = self._under_way.get(pending.run_id, 0) + pending.points
                self._change.notify()
                return
        pending.done(LogFailed("the collector is about to exit"))

    def under_way(self, run_id: str) -> int:
        """Points of a run that were accepted and are not durable yet."""
        with self._change:
            return self._under_way.get(run_id, 0)

    def stop(self, deadline: float) -> None:
        """Commit what is queued, and take nothing more.

        Args:
            deadline: seconds to wait.
        """
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(deadline)

    def _run(self) -> None:
        while group := self._next_group():
            outcomes = self._commit(group)
            with self._change:
                for pending in group:
                    left = self._under_way.pop(pending.run_id, 0) - pending.points
                    if left > 0:
                        self._under_way[pending.run_id] = left
            for pending, outcome in zip(group, outcomes, strict=True):
                pending.done(outcome)
            for run_id in {p.run_id for p, outcome in zip(group, outcomes, strict=True) if isinstance(outcome, int)}:
                self._committed(run_id)

    def _next_group(self) -> list[Pending]:
        group: list[Pending] = []
        size = 0
        with self._change:
            while not self._queue and not self._stopping:
                self._change.wait(_WAIT)
            while self._queue and len(group) < _GROUP_BATCHES and size < _GROUP_BYTES:
                group.append(pending := self._queue.popleft())
                size += len(pending.append.payload)
        return group

    def _commit(self, group: Sequence[Pending]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(self._log.append([pending.append for pending in group]))
        except LogFailed as error:
            if not self._failing:
                self._failing = True
                _logger.error("the log takes nothing: %s", error)
            return [error] * len(group)
        except Exception:
            # One batch that the log chokes on must not take the others with it.
            _logger.exception("the log rejects a batch", extra={"runs": sorted({p.run_id for p in group})})
            if len(group) == 1:
                return [Rejected("this collector cannot store the batch; its log says why")]
            return [self._commit([pending])[0] for pending in group]
        if self._failing:
            self._failing = False
            _logger.info("the log takes records again")
        return outcomes
