"""Which lane delivers a run: mostly the one that its backend names; another one, where that does not work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.berth import LaneKey
from tracelet_collector.delivery.course import Course
from tracelet_collector.log.base import slot_of

__all__ = ["Moves", "Place", "Switchboard"]

Place = tuple[str, str]  # a run's id and its slot


class Moves(Protocol):
    """A lane, as far as runs come to it and leave it."""

    @property
    def key(self) -> LaneKey:
        """What its worker is made for."""

    def wake(self, run: wire.RunSpec, backend: wire.BackendSpec) -> None:
        """There may be something to deliver for a run."""

    def release(self, target: str | None, course: Course | None) -> list[Course]:
        """Let go of a run, or of all of a target's; whoever has its turn now stays."""

    def adopt(self, course: Course) -> None:
        """Take a run that another lane let go of."""


class Switchboard:
    """The lanes, and who is where. A run's backend is in one lane at a time: two workers would deliver the same twice.

    Args:
        make: a lane, which it starts.
    """

    def __init__(self, make: Callable[[LaneKey], Moves]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._lanes: dict[LaneKey, Moves] = {}
        self._keys: dict[Place, str] = {}  # names of credentials that are not the run's own
        self._apart: set[LaneKey] = set()  # lanes of one target that were part of another lane before

    def wake(self, run: wire.RunSpec, backend: wire.BackendSpec) -> None:
        """Tell a run's lane that there may be something to deliver."""
        with self._lock:
            self._lane(self._key(run.run_id, backend)).wake(run, backend)

    def change_key(self, lane: Moves, course: Course, name: str) -> None:
        """Let a run be delivered with other credentials.

        Args:
            lane: where it is, and whose thread calls.
            course: the run.
            name: the credentials'.
        """
        with self._lock:
            if lane.release(None, course):
                self._keys[course.place] = name
                self._lane(self._key(course.run.run_id, course.backend)).adopt(course)

    def set_apart(self, lane: Moves, target: str) -> None:
        """Give a target's runs a worker of their own: they were the end of some, and others wait meanwhile.

        Args:
            lane: where they are, and whose thread calls.
            target: the tracker's URI.
        """
        if lane.key.server:
            return  # it is its own already
        with self._lock:
            self._apart.add(lane.key._replace(server=target))
            for course in lane.release(target, None):
                self._lane(self._key(course.run.run_id, course.backend)).adopt(course)

    def _key(self, run_id: str, backend: wire.BackendSpec) -> LaneKey:
        key = LaneKey.of(backend)
        if (name := self._keys.get((run_id, slot_of(backend)))) is not None:
            key = key._replace(credentials=name)
        apart = key._replace(server=backend.target)
        return apart if apart in self._apart else key

    def _lane(self, key: LaneKey) -> Moves:
        if (lane := self._lanes.get(key)) is None:
            lane = self._lanes[key] = self._make(key)
        return lane
