"""One worker and the runs that share it: a thread that gives each its turn."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.backoff import Backoff, Patience
from tracelet_collector.delivery.berth import Berth, LaneKey, NoWorker
from tracelet_collector.delivery.course import Course, Live, State
from tracelet_collector.delivery.process import Unreadable, WorkerFailed
from tracelet_collector.delivery.seats import Seats
from tracelet_collector.delivery.spawner import Spawner
from tracelet_collector.exporters.base import Paused, Retryable, Rewind
from tracelet_collector.log.base import Chunk, Log, LogFailed, Retired, slot_of

__all__ = ["Lane"]

_MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024
_DEADLY: Final = 3  # workers that fail over one chunk in a row, until it is tried only now and then
_SHORTLY: Final = 1.0
_STUBBORN: Final = 5  # failures in a row, after which a fresh process may know better
_logger = logging.getLogger("tracelet_collector.delivery")


class Lane:
    """The runs that one worker delivers, one chunk at a time, in turn.

    Args:
        key: what the worker is made for.
        name: of the thread.
        log: is read and committed to.
        home: tracelet's home.
        spawner: starts the worker.
        seats: of its kind.
        patience: how long to wait for what.
    """

    def __init__(
        self, key: LaneKey, name: str, log: Log, home: Path, spawner: Spawner, seats: Seats, patience: Patience
    ) -> None:
        self._key = key
        self._log = log
        self._worker_log = home / f"worker-{key.kind}.log"
        self._patience = patience
        self._change = threading.Condition()
        self._courses: dict[tuple[str, str], Course] = {}
        self._queue: deque[Course] = deque()
        self._stopping = False
        self._failures = 0  # in a row, of whatever run
        self._berth = Berth(key, home, spawner, seats, patience, self._look)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self, run: wire.RunSpec, backend: wire.BackendSpec) -> None:
        """There may be something to deliver for a run."""
        with self._change:
            place = run.run_id, slot_of(backend)
            course = self._courses.get(place)
            if course is None:
                course = self._courses[place] = Course(run, backend, Backoff(self._patience))
            course.run = run  # whoever resumed it may have said more of it
            course.woken = True
            if not course.queued:
                course.queued = True
                self._queue.append(course)
                self._change.notify_all()

    def live(self) -> Iterable[tuple[tuple[str, str], Live]]:
        """How each run goes, by run id and kind."""
        with self._change:
            courses = list(self._courses.values())
        pid, (start_state, start_error) = self._berth.pid, self._berth.trouble
        for course in courses:
            state, error = course.state, course.last_error
            if start_state != "ok" and course.queued:
                state, error = start_state, start_error
            yield (course.run.run_id, course.slot), Live(state, error, pid)

    def stop(self) -> None:
        """Ask the thread to end after the chunk under way."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._berth.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end.

        Returns:
            Whether it ended.
        """
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def abort(self) -> None:
        """Kill the worker, so that the thread ends now."""
        self._berth.terminate()

    # -- the thread

    def _run(self) -> None:
        try:
            while (todo := self._next()) != "stop":
                if todo == "rest":
                    self._rest()
                else:
                    self._attempt(todo)
        finally:
            self._berth.vacate()

    def _next(self) -> Course | Literal["rest", "stop"]:
        """The next run whose time has come; `rest` when the worker has nothing to do, or has to make room."""
        idle_at = time.monotonic() + self._patience.idle
        with self._change:
            while not self._stopping:
                now = time.monotonic()
                times = [max(course.backoff.until, self._berth.until) for course in self._queue]
                idle = self._berth.filled and now >= idle_at and not self._berth.holds
                if idle or self._berth.must_yield(busy=any(at <= now + _SHORTLY for at in times)):
                    return "rest"
                if not self._berth.waits:
                    for course, at in zip(self._queue, times, strict=True):
                        if at <= now:
                            self._queue.remove(course)
                            return course
                upcoming = [at - now for at in times if at > now] + (
                    [idle_at - now] if self._berth.filled and now < idle_at else []
                )
                self._change.wait(min(upcoming, default=None))
        return "stop"

    def _attempt(self, course: Course) -> None:
        """Deliver one chunk of a run, or find that there is none, and put the run where it belongs."""
        with self._change:
            course.woken = False
        before = course.state, course.last_error
        more = True
        try:
            more = self._deliver(course)
            if more:
                self._failures = 0
                self._berth.went_well()
            course.went_well()
        except NoWorker:
            pass  # not this run's fault: every run of the lane waits
        except Paused as error:
            self._failed(course, "paused", str(error))
            course.backoff.paused()
        except Retryable as error:
            self._failed(course, "retrying", str(error))
            course.backoff.failed(error.retry_after or 0.0)
        except LogFailed as error:
            self._failed(course, "retrying", f"the log: {error}")
            course.backoff.failed()
        except Rewind as error:
            self._rewind(course, str(error))
        except Unreadable as error:
            self._failed(
                course, "retrying", f"a part of the log cannot be decoded, and nothing after it goes out: {error}"
            )
            course.backoff.paused()
        except WorkerFailed as error:
            self._worker_failed(course, str(error))
        except Exception as error:
            _logger.exception("delivering run %s to %s", course.run.run_id, self._key.kind)
            self._failed(course, "retrying", f"an error of the collector's own: {type(error).__name__}: {error}")
            course.backoff.failed()
        self._tell(course, before)
        with self._change:
            course.queued = more or course.woken
            if course.queued:
                self._queue.append(course)

    def _deliver(self, course: Course) -> bool:
        """Deliver one chunk.

        Returns:
            Whether there was one.
        """
        run_id, slot = course.run.run_id, course.slot
        if not self._berth.filled and self._next_chunk(run_id, slot, 1, 1) is None:
            self._berth.vacate()  # it may be in line
            return False
        worker = self._berth.worker()
        chunk = self._next_chunk(run_id, slot, worker.batch_points, _MAX_CHUNK_BYTES)
        if chunk is None:
            return False
        course.redriven = chunk.only
        if chunk.only and not worker.filters:
            older = f"the tracelet of {self._key.interpreter} is too old to try dead letters again: upgrade it, then redrive"
            self._log.keep_dead(run_id, slot, chunk.only, older)
            return True
        progress = worker.export(
            course.run, course.backend, chunk, chunk.state, lambda keys: self._log.recall(run_id, slot, keys)
        )
        self._log.commit(run_id, slot, progress)
        course.rewinds = 0
        return True

    def _next_chunk(self, run_id: str, slot: str, max_points: int, max_bytes: int) -> Chunk | None:
        """What is to go next: dead letters that are to be tried again, then what comes after the cursor."""
        redriven = self._log.read_redriven(run_id, slot, max_points, max_bytes)
        return redriven or self._log.read(run_id, slot, max_points, max_bytes)

    def _failed(self, course: Course, state: State, error: str) -> None:
        course.state, course.last_error = state, error
        course.deaths = 0
        self._failures += 1
        if self._failures % _STUBBORN == 0:
            self._berth.vacate()

    def _rewind(self, course: Course, why: str) -> None:
        """What was counted is not there: from the first record on. At once, unless it was done a moment ago."""
        try:
            self._log.rewind(course.run.run_id, course.slot)
        except LogFailed as error:
            self._failed(course, "retrying", f"the log: {error}")
            course.backoff.failed()
            return
        except Retired as error:
            if not self._stay_dead(course, f"{why}; but {error}"):
                self._failed(course, "paused", f"{why}; but {error}")
                course.backoff.paused()
            return
        course.rewinds += 1
        _logger.warning("run %s goes to %s from its first record on: %s", course.run.run_id, course.slot, why)
        if course.rewinds > 1:
            self._failed(course, "retrying", f"{why}: from the first record on again")
            course.backoff.failed()

    def _worker_failed(self, course: Course, error: str) -> None:
        """The worker is gone. The chunk comes again; only now and then, when it was the end of several."""
        self._berth.vacate()
        self._failures += 1
        course.deaths += 1
        course.state = "retrying"
        course.last_error = error
        if course.deaths >= _DEADLY and self._stay_dead(course, error):
            course.deaths = 0
        elif course.deaths >= _DEADLY:
            course.last_error = (
                f"{error}, {course.deaths} times in a row over the same records: they may be the cause. "
                f"They are kept and tried again every {self._patience.paused:g} s; see {self._worker_log}"
            )
            course.backoff.paused()
        else:
            course.backoff.failed()
        if self._failures > 1:  # not this run's fault alone
            self._berth.crashed()

    def _stay_dead(self, course: Course, error: str) -> bool:
        """Letters that were tried again stay dead, holding up nobody. False: it was no such chunk, or the log takes nothing."""
        try:
            if course.redriven:
                self._log.keep_dead(course.run.run_id, course.slot, course.redriven, error)
        except LogFailed:
            return False
        return bool(course.redriven)

    def _tell(self, course: Course, before: tuple[State, str]) -> None:
        if (course.state, course.last_error) == before:
            return
        if course.state == "ok":
            _logger.info("delivering run %s to %s goes well again", course.run.run_id, self._key.kind)
        else:
            _logger.warning(
                "delivering run %s to %s: %s: %s", course.run.run_id, self._key.kind, course.state, course.last_error
            )

    def _rest(self) -> None:
        self._berth.vacate()
        with self._change:  # what is settled is forgotten: the log knows it
            self._courses = {place: course for place, course in self._courses.items() if course.queued}

    def _look(self) -> None:
        with self._change:
            self._change.notify_all()
