"""Reads a spool from its files: what a collector does for writers that are dead or send nothing themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tracelet.spoolfile.directory import SpoolDirectory
from tracelet.spoolfile.slots import (
    HEADER_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    SlotDecoder,
    SpoolItem,
    SpoolLost,
    mark_of,
)

__all__ = ["SegmentFile", "SpoolDamaged", "SpoolReader"]


class SpoolDamaged(ValueError):
    """A file that lies in a spool is none of its segments."""


class SegmentFile:
    """The slots of one segment file, as far as the file goes.

    Attributes:
        slots: their bytes.
        claimed: the first position after the stream's last, when records before it found no room; else 0.
    """

    def __init__(self, path: Path, number: int, epoch: int) -> None:
        """Read the file.

        Raises:
            SpoolDamaged: its header names another stream or another segment. (A header that cannot be read does not matter:
                the file's name and `spool.json` say the same.)
        """
        raw = path.read_bytes()
        try:
            header = SegmentHeader.unpack(raw[:HEADER_SIZE])
        except ValueError:
            header = None
        if header is not None and (header.number, header.epoch) != (number, epoch):
            raise SpoolDamaged(f"{path} is segment {header.number} of epoch {header.epoch}, not {number} of {epoch}")
        slots = min((len(raw) - HEADER_SIZE) // SLOT_SIZE, SLOTS_PER_SEGMENT)
        self.claimed = 0 if header is None else header.claimed
        self.slots = raw[HEADER_SIZE : HEADER_SIZE + max(slots, 0) * SLOT_SIZE]


class SpoolReader:
    """Items of a spool in order of position.

    Two files may have one number: two threads made the segment at once, one of them won, and the process was killed before
    the other's file was removed. The loser's has no committed slot.

    Args:
        directory: the spool.
        epoch: its stream's epoch.
        whole: the writer is dead, so an unfinished slot before the last finished one holds nothing. While it lives, reading
            stops at the first unfinished slot.
    """

    def __init__(self, directory: SpoolDirectory, epoch: int, whole: bool = True) -> None:
        self._directory = directory
        self._epoch = epoch
        self._whole = whole
        self._claimed = 0
        self.foreign: list[Path] = []

    def read(self, from_seq: int = 0) -> Iterator[list[SpoolItem]]:
        """Items from `from_seq` to the last committed position, a list for each segment.

        A segment that is missing between others, and slots that are damaged or cut off, come as `SpoolLost`. So do positions
        between `from_seq` and the first segment, and those at the end of which the writer has said that they found no room.
        """
        end = from_seq
        for items, after in self._read(from_seq):
            end = after
            if items:
                yield items
        if self._whole and self._claimed > end:
            yield [SpoolLost(end, self._claimed - end)]

    def _read(self, from_seq: int) -> Iterator[tuple[list[SpoolItem], int]]:
        """Lists of items, each with the first position after it."""
        mark = mark_of(self._epoch)
        decoder = SlotDecoder()
        files: dict[int, list[Path]] = {}
        for number, path in self._directory.segments():
            files.setdefault(number, []).append(path)
        last = self._last_committed(files)
        position = from_seq
        for number in sorted(files):
            if number > last:
                return
            slots = self._slots(number, files[number])
            first = number * SLOTS_PER_SEGMENT
            if first > position:
                yield [SpoolLost(position, first - position)], first
            marks = _marks(slots)
            end = len(marks.rstrip(b"\0")) if number == last else SLOTS_PER_SEGMENT
            if not self._whole and (unfinished := marks.find(b"\0")) >= 0:
                end = min(end, unfinished)
            items = decoder.decode(slots[: end * SLOT_SIZE], first, mark)
            if len(items) < end:
                items.append(SpoolLost(first + len(items), end - len(items)))
            position = max(position, first + end)
            yield [item for item in items if item.seq >= from_seq], position
            if not self._whole and end < SLOTS_PER_SEGMENT:
                return

    def _last_committed(self, files: dict[int, list[Path]]) -> int:
        for number in sorted(files, reverse=True):
            if _marks(self._slots(number, files[number])).strip(b"\0"):
                return number
        return -1

    def _slots(self, number: int, paths: list[Path]) -> bytes:
        slots = b""
        for path in paths:
            try:
                segment = SegmentFile(path, number, self._epoch)
            except FileNotFoundError:
                continue  # acked and removed meanwhile
            except SpoolDamaged:
                if path not in self.foreign:
                    self.foreign.append(path)
                continue
            self._claimed = max(self._claimed, segment.claimed)
            if not slots or _marks(segment.slots).strip(b"\0"):
                slots = segment.slots
        return slots


def _marks(slots: bytes) -> bytes:
    return slots[SLOT_SIZE - 1 :: SLOT_SIZE]
