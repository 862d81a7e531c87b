"""Spools of a test, written slot by slot with the file format's own primitives: whole, torn, or of no make at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from tests.support.batches import TAG
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.spoolfile import BlobKind, SpoolDirectory, SpoolInfo
from tracelet.spoolfile.slots import (
    HEADER_SIZE,
    POINT,
    SEGMENT_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    SlotKind,
    blob_slots,
    mark_of,
)


def spool_info(run: wire.RunSpec, writer: wire.WriterSpec, sends: bool = True) -> SpoolInfo:
    """What `spool.json` says of a run and a writer."""
    said = [MessageToDict(message, preserving_proto_field_name=True) for message in (run, writer)]
    said[1]["epoch"] = writer.epoch  # a number, as the client writes it; MessageToDict makes it a string
    return SpoolInfo(said[0], said[1], sends)


class SlotWriter:
    """A spool whose writer lives until `die`.

    Points have their position as step and value, as those of `tests.support.batches` have. `also` is what `spool.json` says of
    the writer beside what the wire has.
    """

    def __init__(self, home: Path, run: wire.RunSpec, writer: wire.WriterSpec, sends: bool = True, **also: Any) -> None:
        self.epoch = writer.epoch
        said = spool_info(run, writer, sends)
        self.directory, self._lock = SpoolDirectory.create(home, SpoolInfo(said.run, {**said.writer, **also}, sends))
        self.path = self.directory.path
        self.position = 0
        self._mark = mark_of(writer.epoch)
        self._blobs = 0

    def segment(self, number: int) -> Path:
        """A segment's file; made when it is not there."""
        path = self.directory.segment_path(number, "test")
        if not path.exists():
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SEGMENT_SIZE)
                file.write(SegmentHeader(number, self.epoch).pack())
        return path

    def slots(self, raw: bytes) -> None:
        """Whole slots, at the next positions."""
        while raw:
            number, slot = divmod(self.position, SLOTS_PER_SEGMENT)
            now = raw[: (SLOTS_PER_SEGMENT - slot) * SLOT_SIZE]
            with self.segment(number).open("r+b") as file:
                file.seek(HEADER_SIZE + slot * SLOT_SIZE)
                file.write(now)
            raw = raw[len(now) :]
            self.position += len(now) // SLOT_SIZE

    def define(self) -> None:
        """The definition of tag 1; several slots."""
        self.blob(BlobKind.TAG_DEF, {"id": TAG.id, "name": TAG.name, "tag": TAG.tag, "type": TAG.type})

    def points(self, count: int, tag: int = 1) -> None:
        """Points of a tag."""
        seqs = range(self.position, self.position + count)
        point = int(SlotKind.POINT)
        self.slots(b"".join(POINT.pack(seq, float(seq), 1.7e9 + seq, tag, 0, point, self._mark) for seq in seqs))

    def blob(self, kind: BlobKind, said: Mapping[str, Any]) -> None:
        """Something longer than a point."""
        self._blobs += 1
        self.slots(b"".join(blob_slots(kind, json.dumps(said).encode(), self._blobs, self._mark)))

    def end(self, status: str = "finished") -> None:
        """The run's end."""
        self.blob(BlobKind.RUN_END, {"status": status, "reason": "said", "wall_time": 1.8e9})

    def hole(self) -> None:
        """A position that was claimed and never committed."""
        self.slots(bytes(SLOT_SIZE))

    def spoil(self, position: int, raw: bytes) -> None:
        """Write over the slot at a position, from its beginning."""
        number, slot = divmod(position, SLOTS_PER_SEGMENT)
        with self.segment(number).open("r+b") as file:
            file.seek(HEADER_SIZE + slot * SLOT_SIZE)
            file.write(raw)

    def die(self) -> None:
        """The writer's process ends."""
        os.close(self._lock)
