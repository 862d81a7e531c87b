"""Whose turn it is: runs that have caught up share a worker with runs that are behind, half and half."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from tracelet_collector.delivery.course import Course

__all__ = ["Turns"]

# What a chunk costs beside its points, in points: the call to the tracker and the commit.
_CHUNK: Final = 50


class Turns:
    """The courses that have something to deliver.

    Those whose last chunk was all there was (they have caught up), and those that had more behind it, each get half of the
    worker, counted in points with something for each chunk; within each half they take turns. So a run that makes ten points
    a second waits behind one chunk of a run that is a million behind, and not behind one of each that is: there may be twenty.
    Whoever is alone gets all.
    """

    def __init__(self) -> None:
        self._queue: deque[Course] = deque()
        self._debt = 0  # what the courses that have caught up got more than the others

    def __iter__(self) -> Iterator[Course]:
        return iter(self._queue)

    def __contains__(self, course: Course) -> bool:
        return course in self._queue

    def add(self, course: Course) -> None:
        """Put a course at the end."""
        self._queue.append(course)

    def remove(self, course: Course) -> None:
        """Take a course out."""
        self._queue.remove(course)

    def take(self, now: float, at: Callable[[Course], float]) -> Course | None:
        """Take out the course whose turn it is.

        Args:
            now: the monotonic time.
            at: the time before which a course is not to go.

        Returns:
            None when none may go now.
        """
        first: dict[bool, Course] = {}
        for course in self._queue:
            if course.behind not in first and at(course) <= now:
                first[course.behind] = course
                if len(first) == 2:
                    break
        if not first:
            return None
        if len(first) == 1:
            (course,) = first.values()
            self._debt = 0
        else:
            course = first[self._debt > 0]
        self._queue.remove(course)
        return course

    def had(self, course: Course, points: int) -> None:
        """A course had its turn.

        Args:
            course: as it is now: a run that nobody knew to be behind has cost those nothing that are not.
            points: that went.
        """
        cost = _CHUNK + points
        self._debt += -cost if course.behind else cost
