"""Looks after the spool of a process that must not use gRPC: one that was forked from a process which does.

The collector reads such a spool along, and adopts it at the end. The keeper sees that there is a collector, and waits for the
adoption.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from tracelet.errors import CollectorError
from tracelet.guard import say
from tracelet.transport import local
from tracelet.transport.local import Starting
from tracelet.transport.spool import SpoolWriter

__all__ = ["Keeper"]

_LOOK_EVERY: Final = 2.0
_START_DEADLINE: Final = 10.0
_POLL: Final = 0.02


class Keeper:
    """Keeps one spool. Of the same shape as a `Sender`.

    Args:
        spool: the spool.
        home: tracelet's home.
        interval: seconds between two looks.
        starting: how a collector is to be that is started here.
    """

    def __init__(self, spool: SpoolWriter, home: Path, interval: float, starting: Starting) -> None:
        self._spool = spool
        self._home = home
        self._interval = interval
        self._starting = starting
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracelet-keeper", daemon=True)

    @property
    def durable(self) -> int:
        """Positions that are known to be durable: none before the end."""
        return 0

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: there may be no more threads.
        """
        self._thread.start()

    def hurry(self) -> None:
        """Nothing more will be recorded: close the spool, for a collector to adopt it."""
        self._finishing.set()
        self._spool.close(remove=False)

    def finish(self, deadline: float) -> bool:
        """Hurry, and wait until a collector has adopted the spool.

        Args:
            deadline: seconds to wait.

        Returns:
            Everything that was recorded is durable in the collector's log.
        """
        until = time.monotonic() + deadline
        self.hurry()
        path, next_look = self._spool.directory.path, 0.0
        while path.exists():
            now = time.monotonic()
            if now >= until:
                return False
            if now >= next_look:
                next_look = now + _LOOK_EVERY
                try:
                    local.ensure(self._home, until - now, self._starting)
                except CollectorError:
                    continue  # until the time is over
            time.sleep(_POLL)
        return True

    def _run(self) -> None:
        next_look = 0.0
        while not self._finishing.wait(self._interval):
            self._spool.prepare()
            if time.monotonic() < next_look:
                continue
            try:
                local.ensure(self._home, _START_DEADLINE, self._starting)
            except CollectorError as error:
                say(f"{error}. Records are kept in {self._spool.directory.path}", key="no collector")
            next_look = time.monotonic() + _LOOK_EVERY
