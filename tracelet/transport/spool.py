"""The spool's writer: a point is a slot in mapped memory, so it outlives the process from the moment the call returns.

Any number of threads, signal handlers and `__del__` methods may write at once, and no lock is reachable from them: a
position is claimed by `next(itertools.count())`, segments are published by `dict.setdefault`, and a slot's commit mark is its
last byte. One reader, the sender, follows with `take` and `release`.

A claimed position may never be committed (an exception that a signal handler raised in the middle). After a second the
reader contests it. Both sides then go through one `dict.setdefault`: either the writer's slot stands, or it is void and the
writer, should it still be there, logs again.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from tracelet.guard import say
from tracelet.spoolfile.directory import SpoolDirectory, SpoolInfo
from tracelet.spoolfile.slots import (
    HEADER_SIZE,
    POINT,
    SEGMENT_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    BlobKind,
    SlotDecoder,
    SlotKind,
    SpoolItem,
    SpoolVoid,
    blob_slots,
    mark_of,
)
from tracelet.transport.blobs import Blobs
from tracelet.transport.segments import RAM_SEGMENTS, Segments, default_cap

__all__ = ["SpoolWriter"]

_POINT: Final = int(SlotKind.POINT)
_VOID: Final = int(SlotKind.VOID)
_KEPT, _GIVEN_UP = "kept", "given up"
_CONTEST_AFTER: Final = 1.0
_RETRY_EVERY: Final = 4096
_COUNTED: Final = frozenset((BlobKind.POINT, BlobKind.MEDIA, BlobKind.ARTIFACT))
_pack_into: Final = POINT.pack_into


class SpoolWriter:
    """One stream's spool.

    Args:
        home: the tracelet home.
        info: who writes, for which run.
        cap: bytes of disk that its segments may take; by default 2 GiB or a tenth of the disk.

    Attributes:
        blobs: content that records name.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, home: Path, info: SpoolInfo, cap: int | None = None) -> None:
        self.info = info
        self._lock: int | None
        self.directory, self._lock = SpoolDirectory.create(home, info)
        self.blobs = Blobs(self.directory.blobs)
        self._mark = mark_of(info.epoch)
        # What is in RAM alone is as good as lost where nobody sends it.
        ram = RAM_SEGMENTS if info.sends else 0
        self._segments = Segments(self.directory, info.epoch, cap or default_cap(home), ram)
        self._mapped = self._segments.mapped
        self._claim = count()
        self._blob_ids = count()
        self._contested: dict[int, None] = {}
        self._verdicts: dict[int, str] = {}
        # Room ran out: nothing is claimed until the sender has made room (`prepare`).
        self._refusing = False
        self._sealed = False
        self._closed: dict[str, object] = {}
        self._dropped = count()
        self._dropped_told = 0
        self._telling = threading.Lock()  # never waited for
        self._drop_since = 0.0
        # The reader's side.
        self._decoder = SlotDecoder()
        self._taken = 0
        self._hole_since: dict[int, float] = {}
        self._segment(0)

    # -- writing: any thread, any time

    def put(self, tag: int, step: int, value: float, wall_time: float) -> bool:
        """Record a point.

        Args:
            tag: id of a definition that was put before.
            step: within int64.
            value: the value.
            wall_time: seconds since the epoch.

        Returns:
            False: there was no room; the point is dropped and counted.
        """
        if self._refusing:
            return self._drop()
        while True:
            position = next(self._claim)
            number, slot = divmod(position, SLOTS_PER_SEGMENT)
            segment = self._mapped.get(number) or self._segment(number)
            if segment is None:
                return self._drop()
            at = HEADER_SIZE + slot * SLOT_SIZE
            _pack_into(segment, at, step, value, wall_time, tag, 0, _POINT, self._mark)
            if position not in self._contested or self._stands(position, segment, at):
                return True

    def put_blob(self, kind: BlobKind, said: Mapping[str, Any]) -> bool:
        """Record something longer than a point.

        Args:
            kind: what it is.
            said: the fields of the wire message of that kind; JSON-able.

        Returns:
            False: there was no room; it is dropped (and counted when it is a point, media or an artifact).

        Raises:
            ValueError: it is larger than a spool can hold.
        """
        payload = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        while not self._refusing:
            written = self._put_slots(kind, payload)
            if written is not None:
                if written:
                    return True
                break
        return self._drop() if kind in _COUNTED else False

    def put_last(self, kind: BlobKind, said: Mapping[str, Any]) -> bool:
        """Record what must not be missing, whatever room is left: the run's end. What was dropped is recorded before it."""
        if self._dropped_told == self.dropped and self.put_blob(kind, said):
            return True
        self._segments.lift()
        self.prepare()
        self._tell_dropped()
        return self.put_blob(kind, said)

    def _put_slots(self, kind: BlobKind, payload: bytes) -> bool | None:
        """True: written; False: no room; None: a slot was given up meanwhile, so all of it again."""
        for raw in blob_slots(kind, payload, next(self._blob_ids) & 0xFFFFFFFF, self._mark):
            position = next(self._claim)
            number, slot = divmod(position, SLOTS_PER_SEGMENT)
            segment = self._mapped.get(number) or self._segment(number)
            if segment is None:
                return False
            at = HEADER_SIZE + slot * SLOT_SIZE
            # The mark by a store of its own: a copy of 32 bytes may be torn by a kill.
            segment[at : at + SLOT_SIZE - 1] = raw[:-1]
            segment[at + SLOT_SIZE - 1] = raw[-1]
            if position in self._contested and not self._stands(position, segment, at):
                return None
        return True

    def _stands(self, position: int, segment: mmap.mmap, at: int) -> bool:
        if self._verdicts.setdefault(position, _KEPT) is _KEPT:
            return True
        segment[at + SLOT_SIZE - 2] = _VOID
        return False

    def _segment(self, number: int) -> mmap.mmap | None:
        segment = None if self._closed else self._segments.make(number)
        if segment is None:
            self._refusing = True
            if self._closed:
                return None  # a call that was under way when the run was stopped
            say(
                f"no room for records in {self.directory.path}: new points are dropped, and counted, until there is",
                key="spool full",
            )
        elif self._segments.at_risk:
            say(
                f"{self.directory.path} cannot be written: records are kept in memory, up to a bound, until they are sent",
                key="spool in memory",
            )
        return segment

    def count_dropped(self) -> None:
        """A point could not even be written for want of room."""
        self._drop()

    def _drop(self) -> bool:
        number = next(self._dropped)
        if number == self._dropped_told:
            self._drop_since = time.time()
        if not self.info.sends and number % _RETRY_EVERY == 0:
            self.prepare()  # nobody else does, here
        return False

    # -- reading: the sender

    @property
    def claimed(self) -> int:
        """Positions claimed so far."""
        return int(repr(self._claim)[6:-1])  # the only way to look at a count() without moving it

    @property
    def dropped(self) -> int:
        """Points dropped so far."""
        return int(repr(self._dropped)[6:-1])

    @property
    def taken(self) -> int:
        """The first position that `take` has not returned."""
        return self._taken

    def take(self, limit: int) -> list[SpoolItem]:
        """The next committed positions, in order; empty when there are none.

        Stops before a slot that is claimed and not committed, until it is committed or has been given up.
        """
        items = self.look(self._taken, limit, self._decoder)
        self._taken += len(items)
        return items

    def look(self, position: int, limit: int, decoder: SlotDecoder) -> list[SpoolItem]:
        """As `take`, for whoever reads it a second time, with a place and a decoder of his own."""
        number, slot = divmod(position, SLOTS_PER_SEGMENT)
        slots = min(limit, SLOTS_PER_SEGMENT - slot)
        segment = self._mapped.get(number)
        at = HEADER_SIZE + slot * SLOT_SIZE
        marks = b"" if segment is None else segment[at + SLOT_SIZE - 1 : at + slots * SLOT_SIZE : SLOT_SIZE]
        ready = marks.find(b"\0")
        ready = len(marks) if ready < 0 else ready
        if ready == 0:
            return self._give_up(position) if position < self.claimed else []
        assert segment is not None
        items = decoder.decode(segment[at : at + ready * SLOT_SIZE], position, self._mark)
        if self._verdicts:  # a writer that came too late may be about to mark its slot void
            items = [SpoolVoid(item.seq) if self._verdicts.get(item.seq) is _GIVEN_UP else item for item in items]
        return items

    def _give_up(self, position: int) -> list[SpoolItem]:
        if self._verdicts.get(position) is _GIVEN_UP:
            return [SpoolVoid(position)]
        since = self._hole_since.setdefault(position, time.monotonic())
        if time.monotonic() - since < _CONTEST_AFTER:
            return []
        self._hole_since.pop(position, None)
        # The order matters: once contested, a writer that commits later asks for the verdict; one that committed before is
        # seen here.
        self._contested[position] = None
        committed = self._committed(position)
        if self._verdicts.setdefault(position, _KEPT if committed else _GIVEN_UP) is _KEPT:
            return []  # there after all: the next take has it
        return [SpoolVoid(position)]

    def _committed(self, position: int) -> bool:
        number, slot = divmod(position, SLOTS_PER_SEGMENT)
        segment = self._mapped.get(number)
        return segment is not None and segment[HEADER_SIZE + (slot + 1) * SLOT_SIZE - 1] != 0

    def void(self, position: int) -> None:
        """Have the finished record at `position`, which nobody has taken yet, say nothing."""
        self._segments.void(position)

    def rewind(self, position: int) -> int:
        """Take again from `position` on, as far as it is still here.

        Returns:
            The first position that will be taken: later than asked for when what lay before was released.
        """
        self._decoder = SlotDecoder()
        first = min(self._mapped, default=None)
        if first is None:
            self._taken = position
            return position
        # From the first slot there is: parts of a blob may lie before `position`.
        self._taken = first * SLOTS_PER_SEGMENT
        while self._taken < position and self.take(min(position - self._taken, 4096)):
            pass
        return self._taken

    def release(self, position: int) -> None:
        """Everything before `position` is durable in the collector's log."""
        open_since = self._decoder.open_since
        if open_since is not None:
            # Parts of a blob that is still being written. One that never ends does not hold more than a segment.
            position = max(min(position, open_since), position - SLOTS_PER_SEGMENT)
        self._segments.release(position // SLOTS_PER_SEGMENT)

    def prepare(self) -> None:
        """Make the next segment ahead of its first use; when room had run out, try again and record what was dropped."""
        if self._sealed:
            return
        number, slot = divmod(self.claimed, SLOTS_PER_SEGMENT)
        if self._refusing:
            if self._segments.make(number) is None:
                return
            self._refusing = False
            self._tell_dropped()
        elif slot > SLOTS_PER_SEGMENT // 4 and number + 1 not in self._mapped:
            self._segments.make(number + 1)

    def _tell_dropped(self) -> None:
        if not self._telling.acquire(blocking=False):
            return  # the sender and a stop at once: one of them says it
        try:
            dropped = self.dropped - self._dropped_told
            if dropped and self.put_blob(
                BlobKind.GAP,
                {
                    "dropped": dropped,
                    "reason": "no room for the spool",
                    "since": self._drop_since,
                    "until": time.time(),
                },
            ):
                self._dropped_told += dropped
        finally:
            self._telling.release()

    # -- the end

    def seal(self) -> None:
        """Take nothing more. A call that is past this check already is still recorded."""
        self._sealed = self._refusing = True

    def close(self, remove: bool, durable: int = 0) -> int:
        """Free the lock, so that whoever finds the spool knows that nobody writes it any more. Once; later calls do nothing.

        Args:
            remove: everything is durable elsewhere: delete the folder.
            durable: the first position that is not durable elsewhere.

        Returns:
            Records that are lost: they were in memory alone, and the disk still has no room for them; or somebody has
            deleted the folder.
        """
        mine = object()
        if self._closed.setdefault("by", mine) is not mine:
            return 0
        self.seal()
        lost = 0
        if remove:
            # Before the lock is freed: a collector must not adopt what is about to go.
            self._segments.release(self.claimed // SLOTS_PER_SEGMENT + 2)
            with suppress(OSError):  # then a collector finds it, and that it has it all
                self.directory.remove()
        elif not self.directory.path.exists():
            lost = self.claimed - durable
        else:
            for number, segment in self._segments.rescue().items():
                first = max(durable - number * SLOTS_PER_SEGMENT, 0)
                marks = segment[HEADER_SIZE + (first + 1) * SLOT_SIZE - 1 :: SLOT_SIZE]
                lost += len(marks) - marks.count(0)
            if lost:
                self._segments.tell_lost(self.claimed)
        self._free_lock()
        return lost

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of the parent's spool without writing, flushing or removing anything."""
        self._free_lock()

    def _free_lock(self) -> None:
        # Once: the number may be another file's by now.
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


assert SEGMENT_SIZE >= HEADER_SIZE + SLOTS_PER_SEGMENT * SLOT_SIZE
