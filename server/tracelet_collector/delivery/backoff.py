"""When to try again: soon at first, ever later, never all at once."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

__all__ = ["Backoff", "Patience"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long delivery waits, in seconds.

    Attributes:
        first, most: before an attempt after a failure that heals by itself: the shortest and the longest wait.
        paused: before an attempt after a failure that somebody must heal.
        start: for a worker to be ready; it imports the tracker's SDK.
        export: for a worker to deliver one chunk.
        idle: until a worker without work is ended.
        turn: until a worker that has work makes room, when others wait for one.
        sweep: between two looks at the log for work that nobody reported.
        pace: between two looks at how fast it goes, while there is something to deliver.
    """

    first: float = 0.5
    most: float = 30.0
    paused: float = 30.0
    start: float = 120.0
    export: float = 600.0
    idle: float = 300.0
    turn: float = 30.0
    sweep: float = 15.0
    pace: float = 5.0


class Backoff:
    """The waits of one thing that may fail.

    Attributes:
        failures: in a row.
        until: the monotonic time before which it is not to be tried.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.failures = 0
        self.until = 0.0

    def failed(self, at_least: float = 0.0) -> None:
        """It failed and will heal: exponential, with full jitter.

        Args:
            at_least: what the other side asked for.
        """
        self.failures += 1
        longest = min(self._patience.most, self._patience.first * 2 ** min(self.failures, 16))
        wait = random.uniform(self._patience.first, longest)
        self.until = time.monotonic() + max(wait, min(at_least, 3600.0))

    def paused(self) -> None:
        """It failed and somebody must heal it."""
        self.failures += 1
        self.until = time.monotonic() + self._patience.paused * random.uniform(0.9, 1.1)

    def soon(self) -> None:
        """It failed, and the next attempt will be another one."""
        self.failures += 1
        self.until = time.monotonic() + self._patience.first * random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """It went well."""
        self.failures = 0
        self.until = 0.0
