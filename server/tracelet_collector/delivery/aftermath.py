"""What follows from how a chunk went: when the run's next turn is, what is told of it, and who else is held up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tracelet_collector.delivery.backoff import Patience
from tracelet_collector.delivery.berth import Berth, LaneKey
from tracelet_collector.delivery.breaker import Breaker
from tracelet_collector.delivery.course import SET_ASIDE, Course, State
from tracelet_collector.delivery.credentials import newest
from tracelet_collector.delivery.process import Hung, Shipment, Unreadable, WorkerFailed
from tracelet_collector.delivery.suspicion import Suspicion, Tried
from tracelet_collector.exporters.base import Paused, Retryable, Rewind, Unauthorized
from tracelet_collector.log.base import Chunk, Log, LogFailed, Retired

__all__ = ["Aftermath", "Move"]

_DEADLY: Final = 3  # workers that fail over letters that are tried again, until these stay dead
_STUBBORN: Final = 5  # failures in a row, after which a fresh process may know better
_logger = logging.getLogger("tracelet_collector.delivery")


class Move(NamedTuple):
    """A run is better off in another lane.

    Attributes:
        key: name of the credentials to go on with; None: the same.
        apart: its target should have a worker of its own.
    """

    key: str | None = None
    apart: bool = False


class Aftermath:
    """Draws the consequences, for one lane. Used by its thread, except for `breakers`, which may be looked at.

    Args:
        key: what the lane's worker is made for.
        log: is committed to and put back.
        home: tracelet's home.
        patience: how long to wait for what.
        berth: the worker's.

    Attributes:
        breakers: of targets that did not answer when they were asked last.
        tired: a fresh worker may know better.
    """

    def __init__(self, key: LaneKey, log: Log, home: Path, patience: Patience, berth: Berth) -> None:
        self.breakers: dict[str, Breaker] = {}
        self.tired = False
        self._key = key
        self._log = log
        self._home = home
        self._patience = patience
        self._berth = berth
        self._failures = 0  # in a row, of whatever run
        self._deadly: set[Course] = set()  # since something was delivered

    def delivered(self, course: Course, chunk: Chunk) -> None:
        """A chunk went well, for good."""
        self._failures = 0
        self._deadly.clear()
        self._berth.went_well()
        self.breakers.pop(course.backend.target, None)
        for lsn, seq in course.delivered(chunk):
            _logger.warning(
                "run %s to %s: record %d/%d is %s", course.run.run_id, course.slot, lsn, seq, course.aside[lsn, seq]
            )
        course.went_well()

    def tried(self, course: Course, shipment: Shipment, tried: Tried) -> None:
        """Some records of a chunk that is the end of workers went well."""
        suspicion = course.suspicion
        assert suspicion is not None
        suspicion.passed(shipment.done, tried)
        if suspicion.vain:
            course.backoff.paused()
        else:
            course.backoff.succeeded()

    def failed(self, course: Course, error: Exception) -> Move | None:
        """An attempt came to nothing.

        Args:
            course: whose it was.
            error: why; not the failure of a worker over a chunk.

        Returns:
            Where the run goes from here, when it does not stay.
        """
        match error:
            case Unauthorized():
                return self._refused(course, str(error))
            case Paused():
                self._failed(course, "paused", str(error))
                course.backoff.paused()
            case Retryable():
                self._unreached(course, error)
            case LogFailed():
                self._failed(course, "retrying", f"the log: {error}")
                course.backoff.failed()
            case Rewind():
                self._rewind(course, str(error))
            case Unreadable():
                words = f"a part of the log cannot be decoded, and nothing after it goes out: {error}"
                self._failed(course, "retrying", words)
                course.backoff.paused()
            case _:
                _logger.error("delivering run %s to %s", course.run.run_id, self._key.kind, exc_info=error)
                words = f"an error of the collector's own: {type(error).__name__}: {error}"
                self._failed(course, "retrying", words)
                course.backoff.failed()
        return None

    def _failed(self, course: Course, state: State, error: str) -> None:
        course.state, course.last_error = state, error
        if course.suspicion is not None and course.suspicion.young:
            course.suspicion = None
        self._failures += 1
        self.tired = self._failures % _STUBBORN == 0

    def _unreached(self, course: Course, error: Retryable) -> None:
        """The target is down, slow or busy. One of its runs asks now and then, once several have."""
        self._failed(course, "retrying", str(error))
        breaker = self.breakers.setdefault(course.backend.target, Breaker(self._patience))
        breaker.failed(course, str(error), error.retry_after or 0.0)
        if breaker.open:
            course.backoff.succeeded()  # it waits with the others
        else:
            course.backoff.failed()

    def fresh_key(self, course: Course) -> Move | None:
        """Credentials that somebody left since a run's own were refused."""
        if course.refused:
            name = newest(self._home, self._key.kind, course.backend.target)
            if name is not None and name != self._key.credentials and name not in course.refused:
                return Move(key=name)
        return None

    def _refused(self, course: Course, error: str) -> Move | None:
        """The tracker does not take the key: on with the newest one that was left for it, and the run's own, in turn."""
        self._failed(course, "paused", error)
        mine = self._key.credentials
        course.refused.add(mine)
        name = newest(self._home, self._key.kind, course.backend.target)
        if name in (None, mine):
            name = course.backend.credentials
        if name == mine or name in course.refused:
            course.backoff.paused()
        else:
            course.backoff.succeeded()
        return Move(key=name) if name != mine else None

    def _rewind(self, course: Course, why: str) -> None:
        """What was counted is not there: from the first record on. At once, unless it was done a moment ago."""
        run_id, slot = course.place
        try:
            letters = self._log.dead_letters(run_id, slot)
            course.aside |= {(each.lsn, each.seq): each.error for each in letters if each.error.startswith(SET_ASIDE)}
            self._log.rewind(run_id, slot)
        except LogFailed as error:
            self._failed(course, "retrying", f"the log: {error}")
            course.backoff.failed()
            return
        except Retired as error:
            if self._stay_dead(course, course.redriven, f"{why}; but {error}"):
                return
            self._failed(course, "paused", f"{why}; but {error}")
            course.backoff.paused()
            return
        course.rewinds += 1
        _logger.warning("run %s goes to %s from its first record on: %s", run_id, slot, why)
        if course.rewinds > 1:
            self._failed(course, "retrying", f"{why}: from the first record on again")
            course.backoff.failed()

    def worker_failed(self, course: Course, shipment: Shipment, failure: WorkerFailed) -> Move | None:
        """The worker is gone. The chunk comes again; when it was the end of several, in parts."""
        self._berth.vacate()
        chunk = shipment.chunk
        self._failures += 1
        self._deadly.add(course)
        if len(self._deadly) > 1:  # not this run's fault alone
            self._berth.crashed()
        if chunk.only:
            self._redriving_failed(course, chunk, str(failure))
            return None
        suspicion = course.suspicion = course.suspicion or Suspicion(chunk)
        suspicion.failed(shipment.done, chunk)
        hung = isinstance(failure, Hung)
        if hung:
            self.breakers.setdefault(course.backend.target, Breaker(self._patience)).failed(course, str(failure))
        course.state = "retrying"
        course.last_error = f"{failure}{suspicion}"
        course.how = str(failure)
        if suspicion.vain or suspicion.waits:
            course.backoff.paused()
        elif suspicion.searching:
            course.backoff.soon()
        else:
            course.backoff.failed()
        if hung or suspicion.searching:
            return Move(apart=True)
        return None

    def _redriving_failed(self, course: Course, chunk: Chunk, error: str) -> None:
        """Letters that were tried again stay dead after a while, holding up nobody."""
        course.deaths += 1
        course.state, course.last_error = "retrying", error
        if course.deaths >= _DEADLY and self._stay_dead(course, chunk.only, error):
            course.deaths = 0
        course.backoff.failed()

    def _stay_dead(self, course: Course, letters: Sequence[tuple[int, int]], error: str) -> bool:
        """Letters that were tried again stay dead. False: there were none, or the log takes nothing."""
        try:
            if letters:
                self._log.keep_dead(course.run.run_id, course.slot, letters, error)
        except LogFailed as trouble:
            course.last_error = f"the log: {trouble}"
            return False
        return bool(letters)

    def tell(self, course: Course, before: tuple[State, str]) -> None:
        """Log what has changed for a run."""
        if (course.state, course.last_error) == before:
            return
        if course.state == "ok":
            _logger.info("delivering run %s to %s goes well again", course.run.run_id, self._key.kind)
        else:
            _logger.warning(
                "delivering run %s to %s: %s: %s", course.run.run_id, self._key.kind, course.state, course.last_error
            )
