"""Slots and segments: the bytes of a spool.

A spool is a row of segments, each a file of `SEGMENT_SIZE` bytes: a 64-byte header, then slots of 32 bytes. Slot n of the
spool is the record at position n of its stream (writer, epoch). A slot's last byte is its commit mark: it is written last,
so a slot whose mark is not the segment's mark was never finished and holds nothing. Slots do not straddle cache lines.

    point   step int64, value float64, wall_time float64, tag uint32, 2 bytes unused, kind, mark
    part    24 bytes of a blob, blob id uint32, index uint16, kind, mark
    head    blob length uint32, crc32 uint32, parts uint16, 14 bytes unused, blob id uint32, blob kind uint16, kind, mark
    void    a position that was given up

A blob (a tag's definition, parameters, …) is JSON in UTF-8. Its parts come first and its head last, so it exists once its
head is committed. Other threads' slots may lie between.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

__all__ = [
    "HEADER_SIZE",
    "SEGMENT_SIZE",
    "SLOTS_PER_SEGMENT",
    "SLOT_SIZE",
    "BlobKind",
    "SegmentHeader",
    "SlotDecoder",
    "SlotKind",
    "SpoolBlob",
    "SpoolItem",
    "SpoolLost",
    "SpoolPoint",
    "SpoolVoid",
    "blob_slots",
    "mark_of",
]

MAGIC: Final = b"TRSPOOL1"
SEGMENT_SIZE: Final = 4 * 1024 * 1024
HEADER_SIZE: Final = 64
SLOT_SIZE: Final = 32
SLOTS_PER_SEGMENT: Final = (SEGMENT_SIZE - HEADER_SIZE) // SLOT_SIZE
PART_BYTES: Final = 24
MAX_BLOB: Final = PART_BYTES * 0xFFFF

POINT: Final = struct.Struct("<qddIHBB")
PART: Final = struct.Struct("<24sIHBB")
HEAD: Final = struct.Struct("<IIH14xIHBB")
_HEADER: Final = struct.Struct("<8sHHIQB7xQ")
_CRC: Final = struct.Struct("<I")
_FIRST_MARK: Final = HEADER_SIZE + SLOT_SIZE - 1


class SlotKind(enum.IntEnum):
    """What a slot holds."""

    POINT = 1
    PART = 2
    HEAD = 3
    VOID = 4


class BlobKind(enum.IntEnum):
    """What a blob says; its JSON has the fields of the wire message of the same name."""

    TAG_DEF = 1
    POINT = 2
    PARAMS = 3
    TAGS = 4
    WRITER_SEEN = 5
    RUN_END = 6
    GAP = 7
    MEDIA = 8  # content inline is base64 in "inline"; else "blob" names a file of the spool's blobs folder
    ARTIFACT = 9  # likewise


class SpoolPoint(NamedTuple):
    """A point as a slot holds it."""

    seq: int
    tag: int
    step: int
    value: float
    wall_time: float


class SpoolBlob(NamedTuple):
    """A finished blob, at the position of its head."""

    seq: int
    kind: BlobKind
    payload: bytes


class SpoolVoid(NamedTuple):
    """A position that carries nothing by itself."""

    seq: int


class SpoolLost(NamedTuple):
    """`positions` positions from `seq` on whose content is damaged or missing."""

    seq: int
    positions: int


SpoolItem: TypeAlias = "SpoolPoint | SpoolBlob | SpoolVoid | SpoolLost"


def mark_of(epoch: int) -> int:
    """The commit mark of an epoch: 1 to 255, never 0, which is what a fresh segment holds."""
    return 1 + epoch % 255


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first 64 bytes of a segment."""

    number: int
    epoch: int
    slot_size: int = SLOT_SIZE
    header_size: int = HEADER_SIZE
    claimed: int = 0  # where the stream ended, when its last records found no room; else 0

    @property
    def mark(self) -> int:
        """The commit mark of this segment's slots."""
        return mark_of(self.epoch)

    def pack(self) -> bytes:
        """The header's bytes, padded to `HEADER_SIZE`, the checksum last."""
        body = _HEADER.pack(MAGIC, self.slot_size, self.header_size, self.number, self.epoch, self.mark, self.claimed)
        body = body.ljust(HEADER_SIZE - _CRC.size, b"\0")
        return body + _CRC.pack(zlib.crc32(body))

    @staticmethod
    def unpack(raw: bytes) -> SegmentHeader:
        """Read a header back.

        Raises:
            ValueError: it is not a header of this format, or it is damaged.
        """
        if len(raw) < HEADER_SIZE or raw[: len(MAGIC)] != MAGIC:
            raise ValueError("not a tracelet spool segment")
        body = raw[: HEADER_SIZE - _CRC.size]
        if _CRC.unpack(raw[HEADER_SIZE - _CRC.size : HEADER_SIZE])[0] != zlib.crc32(body):
            raise ValueError("the segment's header is damaged")
        _, slot_size, header_size, number, epoch, mark, claimed = _HEADER.unpack_from(body)
        header = SegmentHeader(number, epoch, slot_size, header_size, claimed)
        if slot_size != SLOT_SIZE or header_size != HEADER_SIZE or mark != header.mark:
            raise ValueError(f"a segment of another format (slot size {slot_size}, header size {header_size})")
        return header


def blob_slots(kind: BlobKind, payload: bytes, blob_id: int, mark: int) -> Iterator[bytes]:
    """The slots of a blob: its parts in order, then its head.

    Raises:
        ValueError: the payload is larger than `MAX_BLOB`.
    """
    if len(payload) > MAX_BLOB:
        raise ValueError(f"a record of {len(payload)} bytes is larger than the {MAX_BLOB} that a spool can hold")
    parts = range(0, len(payload), PART_BYTES)
    for index, start in enumerate(parts):
        yield PART.pack(payload[start : start + PART_BYTES], blob_id, index, SlotKind.PART, mark)
    yield HEAD.pack(len(payload), zlib.crc32(payload), len(parts), blob_id, kind, SlotKind.HEAD, mark)


class SlotDecoder:
    """Turns committed slots, in order of position, into points and blobs.

    Keeps the parts of blobs whose head is still to come, so one decoder serves one stream, from its start or from a position
    before the first part of every blob that is wanted.
    """

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, bytes]] = {}
        self._opened: dict[int, int] = {}

    @property
    def open_since(self) -> int | None:
        """The first position of the oldest blob whose head has not come, or None."""
        return min(self._opened.values(), default=None)

    def decode(self, raw: bytes | memoryview, first_seq: int, mark: int) -> list[SpoolItem]:
        """Decode consecutive slots; one item per slot.

        Args:
            raw: whole slots.
            first_seq: position of the first of them.
            mark: the segment's commit mark. A slot with none comes out void, one with another mark, an unknown kind or a
                wrong checksum as lost.
        """
        items: list[SpoolItem] = []
        append = items.append
        point_kind = int(SlotKind.POINT)
        seq = first_seq
        for step, value, wall_time, tag, _, kind, committed in POINT.iter_unpack(raw):
            if kind == point_kind and committed == mark:
                append(SpoolPoint(seq, tag, step, value, wall_time))
            else:
                start = (seq - first_seq) * SLOT_SIZE
                append(self._other(bytes(raw[start : start + SLOT_SIZE]), seq, mark))
            seq += 1
        return items

    def _other(self, slot: bytes, seq: int, mark: int) -> SpoolItem:
        kind, committed = slot[-2], slot[-1]
        if committed == 0 or (kind == SlotKind.VOID and committed == mark):
            return SpoolVoid(seq)
        if committed != mark:
            return SpoolLost(seq, 1)
        if kind == SlotKind.PART:
            data, blob_id, index, _, _ = PART.unpack(slot)
            self._parts.setdefault(blob_id, {})[index] = data
            self._opened.setdefault(blob_id, seq)
        elif kind == SlotKind.HEAD:
            length, crc, count, blob_id, blob_kind, _, _ = HEAD.unpack(slot)
            parts = self._parts.pop(blob_id, {})
            self._opened.pop(blob_id, None)
            payload = b"".join(parts.get(index, b"") for index in range(count))[:length]
            if zlib.crc32(payload) != crc or blob_kind not in BlobKind._value2member_map_:
                return SpoolLost(seq, 1)
            return SpoolBlob(seq, BlobKind(blob_kind), payload)
        else:
            return SpoolLost(seq, 1)
        return SpoolVoid(seq)
