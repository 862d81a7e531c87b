"""The segments of a spool as its writer sees them: mapped memory, on disk while there is room, in RAM when there is not."""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from tracelet.spoolfile.directory import SpoolDirectory
from tracelet.spoolfile.slots import (
    HEAD,
    HEADER_SIZE,
    PART,
    SEGMENT_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    SlotKind,
)

__all__ = ["RAM_SEGMENTS", "Segments", "default_cap"]

GIB: Final = 1024**3
RAM_SEGMENTS: Final = 4
_POPULATE: Final = getattr(mmap, "MAP_POPULATE", 0)


def default_cap(home: Path) -> int:
    """Bytes that one spool may take: 2 GiB or a tenth of the disk, whichever is less, but two segments at least."""
    disk = os.statvfs(home)
    return max(min(2 * GIB, disk.f_blocks * disk.f_frsize // 10), 2 * SEGMENT_SIZE)


class Segments:
    """Numbered segments, found by number without a lock.

    A segment file is allocated whole (`posix_fallocate`): a sparse mapping would kill the process by SIGBUS on a full disk.
    When the disk refuses, a bounded number of anonymous segments takes its place: their records are at risk until they are
    acked. When those are used up too, there is no segment, and records are dropped and counted.

    A signal handler that logs may come while its own thread makes a segment. It must neither wait for that nor begin anew (at
    a high rate of signals none would ever be finished): it gets a stand-in, and what it wrote there is moved when the segment
    is there.

    Args:
        directory: the spool's folder.
        epoch: the stream's.
        cap: bytes of disk.
        ram: how many anonymous segments there may be; none where no sender empties them.

    Attributes:
        mapped: segment by number; threads read it, and publish in it by `setdefault`.
    """

    def __init__(self, directory: SpoolDirectory, epoch: int, cap: int, ram: int = RAM_SEGMENTS) -> None:
        self.mapped: dict[int, mmap.mmap] = {}
        self._directory = directory
        self._epoch = epoch
        self._cap = cap
        self._ram_cap = ram
        self._files: dict[int, Path] = {}
        self._ram: dict[int, None] = {}
        self._making: dict[tuple[int, int], object] = {}
        self._stand_ins: dict[tuple[int, int], mmap.mmap] = {}

    @property
    def on_disk(self) -> int:
        """Bytes of segment files."""
        return len(self._files) * SEGMENT_SIZE

    @property
    def at_risk(self) -> bool:
        """Some records are in RAM alone."""
        return bool(self._ram)

    def lift(self) -> None:
        """Room for the record that must not be missing, the run's end: it may cross into a second segment."""
        self._cap = max(self._cap, self.on_disk) + 2 * SEGMENT_SIZE
        self._ram_cap = max(self._ram_cap, len(self._ram)) + 2 if self._ram_cap else 0

    def make(self, number: int) -> mmap.mmap | None:
        """Make segment `number`, unless another thread was faster.

        Returns:
            The segment, or None: the cap is reached, or neither disk nor the RAM allowance has room.
        """
        if (there := self.mapped.get(number)) is not None:
            return there
        mine, me = object(), (threading.get_ident(), number)
        if self._making.setdefault(me, mine) is not mine:
            return self._stand_ins.get(me) or self._stand_ins.setdefault(me, mmap.mmap(-1, SEGMENT_SIZE))
        try:
            made = self._make(number)
        finally:
            self._making.pop(me, None)
            self._settle(me)
        return made if made is not None else self.mapped.get(number)

    def _make(self, number: int) -> mmap.mmap | None:
        if self.on_disk + SEGMENT_SIZE > self._cap:
            self._forget_removed()
        if self.on_disk + SEGMENT_SIZE > self._cap:
            return None
        path: Path | None = self._directory.segment_path(number, os.urandom(4).hex())
        assert path is not None
        try:
            mine = _map_file(path, SegmentHeader(number, self._epoch))
        except OSError:
            path = None
            if len(self._ram) >= self._ram_cap:
                return None
            mine = mmap.mmap(-1, SEGMENT_SIZE)
        winner = self.mapped.setdefault(number, mine)
        if winner is not mine:
            if path is not None:
                path.unlink(missing_ok=True)
        elif path is not None:
            self._files[number] = path
        else:
            self._ram[number] = None
        return winner

    def _settle(self, me: tuple[int, int]) -> None:
        """Move what signal handlers left in a stand-in to the segment. Where none could be made, it is the segment itself."""
        if (stand_in := self._stand_ins.pop(me, None)) is None:
            return
        number = me[1]
        segment = self.mapped.setdefault(number, stand_in)
        if segment is stand_in:
            self._ram[number] = None
            return
        marks = stand_in[HEADER_SIZE + SLOT_SIZE - 1 :: SLOT_SIZE]
        for slot in (slot for slot, mark in enumerate(marks) if mark):
            at = HEADER_SIZE + slot * SLOT_SIZE
            segment[at : at + SLOT_SIZE - 1] = stand_in[at : at + SLOT_SIZE - 1]
            segment[at + SLOT_SIZE - 1] = stand_in[at + SLOT_SIZE - 1]

    def _forget_removed(self) -> None:
        """A collector that reads along removes the files of segments that it has whole."""
        for number, path in list(self._files.items()):
            if not path.exists():
                self._files.pop(number, None)
                self.mapped.pop(number, None)

    def void(self, position: int) -> None:
        """Make a finished record void: a point's slot; or a blob's head, and the parts that lie before it."""
        left, blob_id, head = 0, 0, position
        while position >= 0 and (segment := self.mapped.get(position // SLOTS_PER_SEGMENT)) is not None:
            at = HEADER_SIZE + position % SLOTS_PER_SEGMENT * SLOT_SIZE
            slot = segment[at : at + SLOT_SIZE]
            if position == head:
                segment[at + SLOT_SIZE - 2] = SlotKind.VOID
                if slot[-2] == SlotKind.HEAD:
                    _, _, left, blob_id, *_ = HEAD.unpack(slot)
            elif slot[-2] == SlotKind.PART and PART.unpack(slot)[1] == blob_id:
                segment[at + SLOT_SIZE - 2] = SlotKind.VOID
                left -= 1
            if not left:
                return
            position -= 1

    def release(self, before: int) -> None:
        """Let go of all segments with a number below `before`: their records are durable elsewhere."""
        for number in [number for number in list(self.mapped) if number < before]:
            # Not closed: a thread that is late in a slot that was given up may still hold it. The last reference unmaps.
            self.mapped.pop(number, None)
            self._ram.pop(number, None)
            if (path := self._files.pop(number, None)) is not None:
                path.unlink(missing_ok=True)

    def tell_lost(self, claimed: int) -> None:
        """Write where the stream ended into the segments that are on the disk: what is not found there, had no room."""
        for number in list(self._files):
            if (segment := self.mapped.get(number)) is not None:
                raw = SegmentHeader(number, self._epoch, claimed=claimed).pack()
                segment[: len(raw)] = raw

    def rescue(self) -> dict[int, mmap.mmap]:
        """Write to the disk what is in RAM alone, now that nobody will send it; there may be room again.

        Returns:
            The segments for which there is none, by number.
        """
        left = {}
        for number in sorted(self._ram):
            if (segment := self.mapped.get(number)) is None:
                continue
            path = self._directory.segment_path(number, os.urandom(4).hex())
            try:
                copy = _map_file(path, SegmentHeader(number, self._epoch))
            except OSError:
                left[number] = segment
                continue
            copy[HEADER_SIZE:] = segment[HEADER_SIZE:]
            self._files[number] = path
            self._ram.pop(number, None)
        return left


def _map_file(path: Path, header: SegmentHeader) -> mmap.mmap:
    """Make a segment's file and map it; when that fails or is interrupted, no file is left."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, SEGMENT_SIZE)
            else:
                zeros = bytes(1024 * 1024)
                for _ in range(SEGMENT_SIZE // len(zeros)):
                    os.write(descriptor, zeros)
            # Populated at once: no page fault in the middle of a user's call.
            segment = mmap.mmap(descriptor, SEGMENT_SIZE, flags=mmap.MAP_SHARED | _POPULATE)
        finally:
            os.close(descriptor)
        raw = header.pack()
        segment[: len(raw)] = raw
    except BaseException:  # a signal handler's, too: passed on
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return segment
