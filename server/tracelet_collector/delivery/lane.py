"""One worker and the runs that share it: a thread that gives each its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.aftermath import Aftermath, Move
from tracelet_collector.delivery.backoff import Backoff, Patience
from tracelet_collector.delivery.berth import Berth, LaneKey, NoWorker
from tracelet_collector.delivery.course import Course, Live, State
from tracelet_collector.delivery.process import Shipment, WorkerFailed, WorkerProcess
from tracelet_collector.delivery.seats import Seats
from tracelet_collector.delivery.spawner import Spawner
from tracelet_collector.delivery.suspicion import Tried
from tracelet_collector.delivery.switchboard import Switchboard
from tracelet_collector.delivery.turns import Turns
from tracelet_collector.log.base import Chunk, Log

__all__ = ["Lane", "Station"]

_MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024
_SHORTLY: Final = 1.0


class Station(NamedTuple):
    """What the lanes of a kind have in common.

    Attributes:
        log: is read and committed to.
        home: tracelet's home.
        spawner: starts the workers.
        seats: of the kind.
        patience: how long to wait for what.
    """

    log: Log
    home: Path
    spawner: Spawner
    seats: Seats
    patience: Patience


class _Flight(NamedTuple):
    """A chunk that the worker has.

    Attributes:
        course: whose it is.
        worker: has it.
        shipment: what it was given.
        before: the run's state then, and its error.
    """

    course: Course
    worker: WorkerProcess
    shipment: Shipment
    before: tuple[State, str]


class Lane:
    """The runs that one worker delivers, one chunk at a time, in turn.

    Args:
        key: what the worker is made for.
        name: of the thread.
        station: what it shares.
        switchboard: moves runs to other lanes.
    """

    def __init__(self, key: LaneKey, name: str, station: Station, switchboard: Switchboard) -> None:
        self.key: Final = key
        self._log = station.log
        self._home = station.home
        self._patience = station.patience
        self._switchboard = switchboard
        self._change = threading.Condition()
        self._courses: dict[tuple[str, str], Course] = {}
        self._turns = Turns()
        self._stopping = False
        self._berth = Berth(key, self._home, station.spawner, station.seats, self._patience, self._look)
        self._aftermath = Aftermath(key, self._log, self._home, self._patience, self._berth)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self, run: wire.RunSpec, backend: wire.BackendSpec) -> None:
        """There may be something to deliver for a run."""
        with self._change:
            course = Course(run, backend, Backoff(self._patience))
            course = self._courses.setdefault(course.place, course)
            course.run = run  # whoever resumed it may have said more of it
            course.woken = True
            self._enqueue(course)

    def adopt(self, course: Course) -> None:
        """Take a run that another lane let go of."""
        with self._change:
            self._courses[course.place] = course
            course.queued = False
            self._enqueue(course)

    def release(self, target: str | None, course: Course | None) -> list[Course]:
        """Let go of a run, or of all of a target's. The lane's own thread calls, between two turns."""
        with self._change:
            gone = [mine for mine in self._courses.values() if mine is course or mine.backend.target == target]
            for mine in gone:
                del self._courses[mine.place]
                if mine in self._turns:
                    self._turns.remove(mine)
        return gone

    def _enqueue(self, course: Course) -> None:
        if not course.queued:
            course.queued = True
            self._turns.add(course)
            self._change.notify_all()

    def live(self) -> Iterable[tuple[tuple[str, str], Live]]:
        """How each run goes, by run id and kind."""
        with self._change:
            courses = list(self._courses.values())
        pid, (start_state, start_error) = self._berth.pid, self._berth.trouble
        for course in courses:
            state, error = course.state, course.last_error
            if course.queued:
                breaker = self._aftermath.breakers.get(course.backend.target)
                if breaker is not None and breaker.open and state != "paused":
                    state, error = "retrying", str(breaker)
                if start_state != "ok":
                    state, error = start_state, start_error
            yield course.place, Live(state, error, pid)

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
        flight: _Flight | None = None
        try:
            while True:
                if flight is not None:
                    flight = self._end(flight)
                    continue
                if self._aftermath.tired or self._berth.spent:
                    self._berth.vacate()
                    self._aftermath.tired = False
                match self._next():
                    case "stop":
                        return
                    case "rest":
                        self._rest()
                    case course:
                        flight = self._begin(course)
        finally:
            self._berth.vacate()

    def _at(self, course: Course) -> float:
        """The time before which a run is not to be tried."""
        at = max(course.backoff.until, self._berth.until)
        breaker = self._aftermath.breakers.get(course.backend.target)
        return at if breaker is None else max(at, breaker.until(course))

    def _next(self) -> Course | Literal["rest", "stop"]:
        """The next run whose time has come; `rest` when the worker has nothing to do, or has to make room."""
        idle_at = time.monotonic() + self._patience.idle
        with self._change:
            while not self._stopping:
                now = time.monotonic()
                times = [self._at(course) for course in self._turns]
                idle = self._berth.filled and now >= idle_at and not self._berth.holds
                if idle or self._berth.must_yield(busy=any(at <= now + _SHORTLY for at in times)):
                    return "rest"
                if not self._berth.waits and (course := self._turns.take(now, self._at)) is not None:
                    return course
                upcoming = [at - now for at in times if at > now] + (
                    [idle_at - now] if self._berth.filled and now < idle_at else []
                )
                self._change.wait(min(upcoming, default=None))
        return "stop"

    def _begin(self, course: Course) -> _Flight | None:
        """Give a chunk of a run to the worker. None: there is none, or it came to nothing; the run is where it belongs."""
        with self._change:
            course.woken = False
        before = course.state, course.last_error
        more, move = True, self._aftermath.fresh_key(course)
        if move is None:
            try:
                shipped = self._ship(course)
                if not isinstance(shipped, bool):
                    return _Flight(course, *shipped, before)
                more = shipped
            except NoWorker:
                pass  # not this run's fault: every run of the lane waits
            except Exception as error:
                move = self._aftermath.failed(course, error)
        self._put_back(course, more, move, before)
        return None

    def _ship(self, course: Course) -> tuple[WorkerProcess, Shipment] | bool:
        """Give a chunk of a run to the worker. When there is none: whether it is worth another look."""
        run_id, slot = course.place
        if not self._berth.filled and self._next_chunk(run_id, slot, 1, 1) is None:
            self._berth.vacate()  # it may be in line
            course.went_well()
            return False
        worker = self._berth.worker()
        chunk = self._next_chunk(run_id, slot, worker.batch_points, _MAX_CHUNK_BYTES)
        if chunk is None:
            course.went_well()
            return False
        if chunk.only and not worker.filters:
            words = (
                f"the tracelet of {self.key.interpreter} is too old to try dead letters again: upgrade it, then redrive"
            )
            self._log.keep_dead(run_id, slot, chunk.only, words)
            return True
        course.redriven = chunk.only
        shipment = course.ship(chunk, worker.filters)
        worker.send(shipment)
        return worker, shipment

    def _end(self, flight: _Flight) -> _Flight | None:
        """Wait for the worker's answer, and commit it, while the worker has the next run's chunk already.

        Returns:
            That one, if there is one.
        """
        course, chunk = flight.course, flight.shipment.chunk
        run_id, slot = course.place
        more, move, following = True, None, None
        try:
            result = flight.worker.answer(flight.shipment, lambda keys: self._log.recall(run_id, slot, keys))
            course.behind = more = chunk.more or bool(chunk.only)
            self._turns.had(course, chunk.points)
            if isinstance(result, Tried):
                self._aftermath.tried(course, flight.shipment, result)
                more = True
            else:
                following = self._follow()
                self._log.commit(run_id, slot, result)
                self._aftermath.delivered(course, chunk)
        except WorkerFailed as error:
            move = self._aftermath.worker_failed(course, flight.shipment, error)
        except Exception as error:
            more = True
            move = self._aftermath.failed(course, error)
        self._put_back(course, more, move, flight.before)
        return following

    def _follow(self) -> _Flight | None:
        """Begin with another run before the last chunk of this one is committed. There may be none, or no time for it."""
        with self._change:
            if self._stopping or self._aftermath.tired or self._berth.spent or not self._berth.pid:
                return None
            if self._berth.must_yield(busy=True):
                return None
            course = self._turns.take(time.monotonic(), self._at)
        return self._begin(course) if course is not None else None

    def _put_back(self, course: Course, more: bool, move: Move | None, before: tuple[State, str]) -> None:
        """Put a run where it belongs after its turn: at the end of the queue, or nowhere, or into another lane."""
        self._aftermath.tell(course, before)
        with self._change:
            course.queued = more or course.woken
            if course.queued:
                self._turns.add(course)
        if move is not None and move.key is not None:
            self._switchboard.change_key(self, course, move.key)
        elif move is not None:
            self._switchboard.set_apart(self, course.backend.target)

    def _next_chunk(self, run_id: str, slot: str, max_points: int, max_bytes: int) -> Chunk | None:
        """What is to go next: dead letters that are to be tried again, then what comes after the cursor."""
        redriven = self._log.read_redriven(run_id, slot, max_points, max_bytes)
        return redriven or self._log.read(run_id, slot, max_points, max_bytes)

    def _rest(self) -> None:
        self._berth.vacate()
        with self._change:  # what is settled is forgotten: the log knows it
            self._courses = {place: course for place, course in self._courses.items() if course.queued}

    def _look(self) -> None:
        with self._change:
            self._change.notify_all()
