"""A target that is down: found by few of its runs, and asked by one of them at a time until it is up."""

from __future__ import annotations

import time
from typing import Final

from tracelet_collector.delivery.backoff import Backoff, Patience

__all__ = ["Breaker"]

_OPENS: Final = 3  # failures in a row


class Breaker:
    """What is known of a target whose last attempts failed; there is none while all is well.

    It opens with the third failure in a row, of whichever runs, or when the server says how long to stay away. From then on
    one attempt is made per wait, by the run whose turn it is. A run that has not failed itself is let through as long as
    fewer than three have: the trouble may be one run's own.

    Args:
        patience: how long to wait.

    Attributes:
        failures: in a row.
        error: the last one's.
    """

    def __init__(self, patience: Patience) -> None:
        self.error = ""
        self._backoff = Backoff(patience)
        self._since = time.time()
        self._failed: set[object] = set()
        self._told = 0.0  # the monotonic time before which the server wants to hear nothing

    @property
    def failures(self) -> int:
        """In a row."""
        return self._backoff.failures

    @property
    def open(self) -> bool:
        """One attempt at a time."""
        return self.failures >= _OPENS or self._told > time.monotonic()

    def failed(self, who: object, error: str, at_least: float = 0.0) -> None:
        """An attempt failed, and will work later.

        Args:
            who: made it.
            error: what it says.
            at_least: seconds that the server asked for.
        """
        self.error = error
        self._failed.add(who)
        self._backoff.failed(at_least)
        if at_least > 0:
            self._told = max(self._told, self._backoff.until)

    def until(self, who: object) -> float:
        """The monotonic time before which it is not to be tried.

        Args:
            who: would try.
        """
        if self.failures < _OPENS or (who not in self._failed and len(self._failed) < _OPENS):
            return self._told
        return self._backoff.until

    def __str__(self) -> str:
        """The error, and since when; of an open one."""
        since = time.localtime(self._since)
        today = since[:3] == time.localtime()[:3]
        return f"{self.error} ({self.failures} attempts since {time.strftime('%H:%M:%S' if today else '%F %T', since)})"
