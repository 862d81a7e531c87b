"""How many workers of one kind there may be at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Seats"]


class Seats:
    """A number of places; who wants one that is taken asks those who have one to think about it.

    Args:
        number: of places.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._taken: dict[object, Callable[[], None]] = {}
        self._waiting: dict[object, Callable[[], None]] = {}

    @property
    def wanted(self) -> bool:
        """Somebody waits for a place."""
        return bool(self._waiting)

    def take(self, who: object, nudge: Callable[[], None]) -> bool:
        """Take a place, or get in line for one.

        Args:
            who: takes it.
            nudge: called, from any thread, when somebody wants the place, and when one becomes free for who waits.

        Returns:
            Whether there was one.
        """
        with self._lock:
            ahead = [other for other in self._waiting if other is not who]
            first = not ahead or next(iter(self._waiting)) is who
            if len(self._taken) < self._number and first:
                self._waiting.pop(who, None)
                self._taken[who] = nudge
                return True
            self._waiting.setdefault(who, nudge)
            holders = list(self._taken.values())
        for tell in holders:
            tell()
        return False

    def leave(self, who: object) -> None:
        """Give up a place, or the wait for one."""
        with self._lock:
            self._taken.pop(who, None)
            self._waiting.pop(who, None)
            waiting = list(self._waiting.values())
        for tell in waiting:
            tell()
