"""Gives the log's records to the workers: each run and backend at its own pace."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracelet_collector.delivery.backoff import Patience
from tracelet_collector.delivery.berth import LaneKey
from tracelet_collector.delivery.course import Live
from tracelet_collector.delivery.lane import Lane, Station
from tracelet_collector.delivery.pace import Pace
from tracelet_collector.delivery.seats import Seats
from tracelet_collector.delivery.spawner import Spawner
from tracelet_collector.delivery.switchboard import Switchboard
from tracelet_collector.log.base import Log, LogFailed

__all__ = ["Delivery"]

_WORKERS_PER_KIND: Final = 4
_GATHER: Final = 0.01  # commits come many a second: their wake-ups are taken together
_KILL_WAIT: Final = 5.0
_logger = logging.getLogger("tracelet_collector.delivery")


class Delivery:
    """Delivers what is in the log, and commits the cursors.

    Args:
        log: is read and committed to.
        home: tracelet's home.
        patience: how long to wait for what.
    """

    def __init__(self, log: Log, home: Path, patience: Patience | None = None) -> None:
        self._log = log
        self._home = home
        self._patience = patience or Patience()
        self._spawner = Spawner()
        self._seats: defaultdict[str, Seats] = defaultdict(lambda: Seats(_WORKERS_PER_KIND))
        self._lanes: list[Lane] = []
        self._switchboard = Switchboard(self._make_lane)
        self._pace = Pace(self._patience.pace)
        self._change = threading.Condition()
        self._woken: set[str] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        """Begin to deliver, with whatever the log has."""
        self._spawner.start()
        self._thread.start()

    def wake(self, run_id: str) -> None:
        """There is something new for a run. Thread-safe and cheap."""
        with self._change:
            if run_id not in self._woken:
                self._woken.add(run_id)
                self._change.notify()

    def live(self) -> Mapping[tuple[str, str], Live]:
        """How delivery goes, by run id and backend kind; who is missing here is fine."""
        with self._change:
            lanes = list(self._lanes)
        return {
            place: replace(live, outlook=self._pace.outlook(place)) for lane in lanes for place, live in lane.live()
        }

    def stop(self, deadline: float) -> None:
        """Let the chunks under way finish, then end the workers. What is left stays in the log.

        Args:
            deadline: seconds; then workers are killed.
        """
        until = time.monotonic() + deadline
        with self._change:
            self._stopping = True
            self._change.notify()
            lanes = list(self._lanes)
        for lane in lanes:
            lane.stop()
        late = [lane for lane in lanes if not lane.join(max(0.0, until - time.monotonic()))]
        for lane in late:
            lane.abort()
        for lane in late:
            if not lane.join(_KILL_WAIT):
                _logger.error("a delivery thread does not end; its worker was killed")
        if self._thread.is_alive():
            self._thread.join(_KILL_WAIT)
        self._spawner.stop()

    def _run(self) -> None:
        sweep_at = 0.0
        look_at = math.inf
        while True:
            with self._change:
                if not self._stopping and not self._woken:
                    self._change.wait(max(0.0, min(sweep_at, look_at) - time.monotonic()))
                if self._stopping:
                    return
                woken, self._woken = self._woken, set()
            try:
                now = time.monotonic()
                if now >= min(sweep_at, look_at):
                    left = [cursor for cursor in self._log.cursors() if not cursor.settled]
                    look_at = now + self._patience.pace if self._pace.look(left, now, time.time()) else math.inf
                    if now >= sweep_at:
                        sweep_at = now + self._patience.sweep
                        woken |= {cursor.run_id for cursor in left}
                elif woken and look_at == math.inf:
                    look_at = now + self._patience.pace
                for run_id in woken:
                    self._wake_lanes(run_id)
            except LogFailed as error:
                _logger.warning("the log cannot be read, looking again in %g s: %s", self._patience.sweep, error)
            except Exception:
                _logger.exception("looking for work; again in %g s", self._patience.sweep)
            time.sleep(_GATHER)

    def _wake_lanes(self, run_id: str) -> None:
        for row in self._log.runs(run_id):
            for backend in row.spec.backends:
                self._switchboard.wake(row.spec, backend)

    def _make_lane(self, key: LaneKey) -> Lane:
        with self._change:
            lane = Lane(
                key,
                f"delivery-{key.kind}-{len(self._lanes) + 1}",
                Station(self._log, self._home, self._spawner, self._seats[key.kind], self._patience),
                self._switchboard,
            )
            self._lanes.append(lane)
            if self._stopping:
                return lane  # is never started
        lane.start()
        return lane
