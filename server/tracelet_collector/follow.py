"""Reads along in the spool of a living writer that sends nothing itself: a forked child, where gRPC cannot live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tracelet.spoolfile import SlotDecoder, SpoolDirectory, SpoolItem
from tracelet.spoolfile.slots import (
    HEADER_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    mark_of,
)

__all__ = ["Follower"]

_SLOTS_AT_ONCE: Final = 32_768


class Follower:
    """Follows one spool from its beginning, for the parts of blobs that lie early.

    What it cannot make sense of (a file of another stream, a missing segment) it does not pass: that is left to the reading
    of the whole spool when the writer is dead.

    Args:
        spool: the spool.
        epoch: its stream's epoch.
        from_seq: the first position that is wanted.
    """

    def __init__(self, spool: SpoolDirectory, epoch: int, from_seq: int) -> None:
        self._spool = spool
        self._epoch = epoch
        self._from_seq = from_seq
        # From the first segment there is: earlier ones were released, and are in the log.
        first = min((number for number, _ in spool.segments()), default=0) * SLOTS_PER_SEGMENT
        self._position = first if first <= from_seq else 0
        self._decoder = SlotDecoder()

    def take(self) -> list[SpoolItem] | None:
        """The next finished positions, of which those that are wanted; None: there are no more now."""
        number, slot = divmod(self._position, SLOTS_PER_SEGMENT)
        for path in [path for there, path in self._spool.segments() if there == number]:
            if raw := self._finished(path, number, slot):
                items = self._decoder.decode(raw, self._position, mark_of(self._epoch))
                self._position += len(items)
                return [item for item in items if item.seq >= self._from_seq]
        return None

    def release(self) -> None:
        """Remove the files of segments that were read whole and are durable; the writer forgets them when it needs room.

        The last one stays: it may hold the beginning of a blob that ends in the next.
        """
        for number, path in self._spool.segments():
            if number < self._position // SLOTS_PER_SEGMENT - 1:
                path.unlink(missing_ok=True)

    def _finished(self, path: Path, number: int, slot: int) -> bytes:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            header = SegmentHeader.unpack(os.pread(file, HEADER_SIZE, 0))
            if (header.number, header.epoch) != (number, self._epoch):
                return b""
            at = HEADER_SIZE + slot * SLOT_SIZE
            slots = min(_SLOTS_AT_ONCE, SLOTS_PER_SEGMENT - slot)
            marks = os.pread(file, slots * SLOT_SIZE, at)[SLOT_SIZE - 1 :: SLOT_SIZE]
            ready = marks.find(b"\0")
            ready = len(marks) if ready < 0 else ready
            # Read again: of a slot that was being written, the first reading may have an old beginning and a new mark.
            return os.pread(file, ready * SLOT_SIZE, at) if ready else b""
        except ValueError:
            return b""  # its header is being written, or it is no segment
        finally:
            os.close(file)
