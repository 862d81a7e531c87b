"""Processors: functions of the user's that see each point on its way out, and keep it, drop it, change it or add others.

What a processor makes of a point is written into the spool before the point's position is sent:

    the point itself    it stays as it is
    nothing             its position is void
    other points        are recorded at the end of the spool, where no processor sees them; the point becomes void when it is
                        not among them

So no position is decided twice, and a connection that breaks sends again what was decided. Points that a process which is
killed had not processed yet arrive as they were logged; so do those of a forked child, which has no sender.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, TypeAlias

from tracelet.core.metrics import Metric
from tracelet.core.recorder import Recorder
from tracelet.core.values import as_float, as_meta, as_step
from tracelet.guard import in_a_line, is_users, say
from tracelet.spoolfile import BlobKind, SlotDecoder, SpoolBlob, SpoolItem, SpoolPoint

__all__ = ["Processing", "Processor"]

Processor: TypeAlias = Callable[[Metric], "Metric | Iterable[Metric] | None"]

_AT_ONCE: Final = 512
_SLICE: Final = 0.05  # seconds after which the sender sees to its other duties
_POLL: Final = 0.005


class Processing:
    """The processors of one stream. One thread at a time runs them, over its points in order of position.

    Args:
        recorder: the stream's.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._spool = recorder.spool
        self._processors: tuple[tuple[Processor, int], ...] = ()
        self._decoder = SlotDecoder()
        self._read: deque[SpoolItem] = deque()
        self._at = self._decided = 0
        self._lock = threading.Lock()  # never reached from what records
        self._holder = 0
        self._over = False

    def add(self, processor: Processor) -> None:
        """Have a processor see the points that are recorded from now on; the last of several that were added."""
        since = self._spool.claimed
        if not self._processors:
            self._at = self._decided = since
        self._processors += ((processor, since),)

    def ready(self) -> int:
        """Run the processors for a moment, over what is recorded: the sender's part.

        Returns:
            Positions before this one may be sent.
        """
        if self._over:
            return self._spool.claimed
        if self._lock.acquire(blocking=False):
            self._holder = threading.get_ident()
            try:
                self._advance(time.monotonic() + _SLICE)
            finally:
                self._holder = 0
                self._lock.release()
        return self._decided

    def catch_up(self, deadline: float) -> None:
        """Run the processors over all that is recorded.

        Args:
            deadline: seconds; then it is left as it is.
        """
        if self._over:
            return
        until = time.monotonic() + deadline
        # A processor, or a signal handler in the middle of one, may stop the run.
        if self._holder != threading.get_ident() and self._lock.acquire(timeout=deadline):
            self._holder = threading.get_ident()
            try:
                while self._decided < self._spool.claimed and time.monotonic() < until:
                    before = self._decided
                    self._advance(until)
                    if self._decided == before:
                        time.sleep(_POLL)  # a record that is being written
            finally:
                self._holder = 0
                self._lock.release()

    def finish(self, deadline: float) -> None:
        """Run the processors over all that is recorded; what comes then is sent as it is.

        Args:
            deadline: seconds; what is not processed by then is sent as it is, and a line says so.
        """
        if self._over:
            return
        self.catch_up(deadline)
        if left := self._spool.claimed - self._decided:
            say(
                f"the processors did not get through in {deadline:g} s: up to {left} points are sent as they were logged"
            )
        self._over = True

    def _advance(self, until: float) -> None:
        while time.monotonic() < until:
            if not self._read:
                items = self._spool.look(self._at, _AT_ONCE, self._decoder)
                if not items:
                    return
                self._at += len(items)
                self._read.extend(items)
            item = self._read.popleft()
            try:
                self._decide(item)
            finally:
                self._decided = item.seq + 1

    def _decide(self, item: SpoolItem) -> None:
        point = self._point(item)
        if point is None:
            return
        made = [point]
        for processor, since in self._processors:
            if item.seq >= since:
                made = [each for one in made for each in _apply(processor, one)]
        others = [each for each in made if each is not point and each != point]
        # First what takes its place: killed in between, both arrive rather than none.
        recorded = [self._recorder.derived(each) for each in others]
        if len(others) == len(made) and all(recorded):
            self._spool.void(item.seq)

    def _point(self, item: SpoolItem) -> Metric | None:
        """The point in a position; None for none, or one that a processor made."""
        if type(item) is SpoolPoint:
            tag, value, step, wall_time, metadata = item.tag, item.value, item.step, item.wall_time, {}
        elif type(item) is SpoolBlob and item.kind is BlobKind.POINT:
            said: dict[str, Any] = json.loads(item.payload)
            tag, value, step = said["tag"], said["value"], said["step"]
            wall_time, metadata = said["wall_time"], said["metadata"]
        else:
            return None
        if (of := self._recorder.definitions.get(tag)) is None:
            return None
        return Metric(
            of["name"], value, step, wall_time, of["type"], metadata, of["tag"], of["log_dir"], of["step_implied"],
            of["type_inferred"],
        )  # fmt: skip


def _apply(processor: Processor, point: Metric) -> list[Metric]:
    try:
        made = processor(point)
        if made is None:
            return []
        if isinstance(made, Metric):
            return [_checked(made, point)]
        return [_checked(each, point) for each in made]
    except (Exception, SystemExit) as error:  # the point is not to be lost by it, nor our thread
        if is_users(error):
            raise
        name = getattr(processor, "__qualname__", type(processor).__qualname__)
        say(
            f"processor {name} failed ({in_a_line(error)}); such points are sent as they were logged",
            key=f"processor {id(processor)} failed",
        )
        return [point]


def _checked(made: Metric, point: Metric) -> Metric:
    if made is point:
        return made
    if not isinstance(made, Metric):
        raise TypeError(f"it made a {type(made).__name__}; a Metric, several, or None would be right")
    return replace(
        made,
        name=str(made.name),
        value=as_float(made.value),
        step=as_step(made.step),
        wall_time=float(made.wall_time),
        type=str(made.type),
        metadata=as_meta(made.metadata),
    )
