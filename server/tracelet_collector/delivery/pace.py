"""How fast runs make points and their trackers take them, of late: whether a backend catches up, and when."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from tracelet_collector.log.base import BackendCursor

__all__ = ["AT_PACE", "Outlook", "Pace"]

_WINDOW: Final = 13  # looks that are remembered: a minute, at one each 5 s


class Outlook(NamedTuple):
    """Where a backend is heading.

    Attributes:
        catch_up_seconds: until it has caught up, at these rates; 0: it is not behind, inf: never.
        takes, makes: points a second, of the tracker and of the run.
    """

    catch_up_seconds: float = 0.0
    takes: float = 0.0
    makes: float = 0.0


AT_PACE: Final = Outlook()


class _Look(NamedTuple):
    at: float
    durable: int
    accounted: int


class Pace:
    """What was seen of the cursors that have something to deliver, now and then.

    Args:
        every: seconds between two looks. What waits for less than two of them is not behind.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._looks: dict[tuple[str, str], deque[_Look]] = {}
        self._outlooks: dict[tuple[str, str], Outlook] = {}

    def look(self, cursors: Iterable[BackendCursor], now: float, wall_time: float) -> bool:
        """Take note of how the cursors stand.

        Args:
            cursors: all that have something to deliver; others are forgotten.
            now: the monotonic time.
            wall_time: the time that the log's batches have.

        Returns:
            Whether there are any.
        """
        looks: dict[tuple[str, str], deque[_Look]] = {}
        outlooks = {}
        for cursor in cursors:
            accounted = cursor.delivered + cursor.collapsed + cursor.rerouted + cursor.dead
            place = cursor.run_id, cursor.kind
            seen = looks[place] = self._looks.get(place) or deque(maxlen=_WINDOW)
            if seen and seen[-1].accounted > accounted:
                seen.clear()  # it begins anew
            seen.append(_Look(now, accounted + cursor.lag_points, accounted))
            if cursor.oldest is not None and wall_time - cursor.oldest >= 2 * self._every:
                outlooks[place] = self._outlook(seen, cursor.lag_points)
        with self._lock:
            self._looks, self._outlooks = looks, outlooks
        return bool(looks)

    def outlook(self, place: tuple[str, str]) -> Outlook:
        """Of a run's backend, by run id and slot."""
        with self._lock:
            return self._outlooks.get(place, AT_PACE)

    def _outlook(self, seen: deque[_Look], lag: int) -> Outlook:
        first, last = seen[0], seen[-1]
        seconds = last.at - first.at
        if seconds < 2 * self._every or not lag:
            return AT_PACE
        takes = (last.accounted - first.accounted) / seconds
        makes = (last.durable - first.durable) / seconds
        return Outlook(lag / (takes - makes) if takes > makes else math.inf, takes, makes)
