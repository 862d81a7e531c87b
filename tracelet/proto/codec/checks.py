"""Whether a batch keeps the contract of records.proto, and what it holds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterator
from typing import Final

from tracelet.core.metrics import INLINE_BYTES, INT64_MAX
from tracelet.proto.codec.limits import MAX_ARTIFACT_PATH, MAX_BATCH_RECORDS, MAX_BLOB_BYTES
from tracelet.proto.v1 import records_pb2 as pb

__all__ = ["MalformedBatch", "Tally", "blobs", "is_artifact_path", "tally", "validate", "validate_content"]

_SHA256_BYTES: Final = 32

_BIG_STEP: Final = re.compile(r"-?[0-9]{1,100}")


class MalformedBatch(ValueError):
    """A batch breaks the contract of records.proto; sending it again is useless."""


class Tally:
    """What a batch holds, counted.

    Attributes:
        points: points, in columns and events, media and artifacts.
        dropped: points that its gaps say were dropped, and lost positions.
        last_wall_time: of its newest point, or 0.
    """

    __slots__ = ("dropped", "last_wall_time", "points")

    def __init__(self, points: int, dropped: int, last_wall_time: float) -> None:
        self.points = points
        self.dropped = dropped
        self.last_wall_time = last_wall_time


def tally(batch: pb.Batch) -> Tally:
    """Count a valid batch."""
    points, dropped = len(batch.tag), sum(span.count for span in batch.lost)
    for event in batch.events:
        if event.WhichOneof("kind") in ("point", "media", "artifact"):
            points += 1
        elif event.HasField("gap"):
            dropped += event.gap.dropped
    return Tally(points, dropped, batch.wall_time[-1] if batch.wall_time else 0.0)


def validate(batch: pb.Batch, known: Container[int]) -> None:
    """Check a batch against the contract of records.proto.

    Args:
        batch: as it came.
        known: ids of the stream's dictionary so far.

    Raises:
        MalformedBatch: the message says what is wrong.
    """
    columns = {len(batch.tag), len(batch.step_delta), len(batch.value), len(batch.wall_time)}
    if len(columns) > 1:
        raise MalformedBatch("the columns tag, step_delta, value and wall_time differ in length")
    records = len(batch.tag) + len(batch.events)
    if records > MAX_BATCH_RECORDS:
        raise MalformedBatch(f"{records} records in one batch; {MAX_BATCH_RECORDS} are allowed")
    if batch.count == 0:
        raise MalformedBatch("the batch covers no position")
    if batch.first_seq + batch.count > INT64_MAX:
        raise MalformedBatch("the sequence is out of range")
    _validate_positions(batch)
    defined: set[int] = set()
    used = set(batch.tag)
    for event in batch.events:
        kind = event.WhichOneof("kind")
        if kind is None:
            raise MalformedBatch("an event of a kind that this version does not know")
        if kind == "tag_def":
            if event.tag_def.id in known or event.tag_def.id in defined:
                raise MalformedBatch(f"tag {event.tag_def.id} is defined twice")
            defined.add(event.tag_def.id)
        elif kind in ("point", "media"):
            said = event.point if kind == "point" else event.media
            used.add(said.tag)
            if said.big_step and not _BIG_STEP.fullmatch(said.big_step):
                raise MalformedBatch(f"step {said.big_step[:40]!r} is not an integer of at most 100 digits")
        if kind == "media":
            validate_content(event.media)
        elif kind == "artifact":
            validate_content(event.artifact)
            if not is_artifact_path(event.artifact.path):
                raise MalformedBatch(f"{event.artifact.path[:200]!r} is no path of an artifact")
    if unknown := [tag for tag in used if tag not in defined and tag not in known]:
        raise MalformedBatch(f"tag {unknown[0]} was never defined")


def is_artifact_path(path: str) -> bool:
    """Whether a path is fit to be an artifact's: relative, printable, and nowhere but below the run."""
    parts = path.split("/")
    return (
        len(path) <= MAX_ARTIFACT_PATH
        and all(part not in ("", ".", "..") for part in parts)
        and path.isprintable()
        and "\\" not in path
    )


def blobs(batch: pb.Batch) -> Iterator[tuple[str, int]]:
    """Hash (hex) and size of the blobs that a batch names."""
    for event in batch.events:
        kind = event.WhichOneof("kind")
        if kind in ("media", "artifact"):
            said = event.media if kind == "media" else event.artifact
            if said.WhichOneof("content") == "blob":
                yield said.blob.sha256.hex(), said.blob.size


def validate_content(holder: pb.Media | pb.Artifact) -> None:
    """Check that media or an artifact has content of an allowed size.

    Raises:
        MalformedBatch: the message says what is wrong.
    """
    content = holder.WhichOneof("content")
    if content is None:
        raise MalformedBatch("media or an artifact without content")
    if content == "inline" and len(holder.inline) > INLINE_BYTES:
        raise MalformedBatch(f"content of {len(holder.inline)} bytes in a record; {INLINE_BYTES} are allowed")
    if content == "blob" and (len(holder.blob.sha256) != _SHA256_BYTES or holder.blob.size > MAX_BLOB_BYTES):
        raise MalformedBatch("a blob without a hash, or too large")


def _validate_positions(batch: pb.Batch) -> None:
    if len(batch.tag) == batch.count and not batch.events and not batch.void and not batch.lost:
        return
    taken = [(event.offset, 1) for event in batch.events]
    if any(a >= b for (a, _), (b, _) in itertools.pairwise(taken)):
        raise MalformedBatch("events are out of order")
    taken += [(span.offset, span.count) for span in batch.void]
    taken += [(span.offset, span.count) for span in batch.lost]
    taken.sort()
    end = 0
    for offset, count in taken:
        if offset < end or count == 0:
            raise MalformedBatch("two records claim one position")
        end = offset + count
    if end > batch.count or sum(count for _, count in taken) + len(batch.tag) != batch.count:
        raise MalformedBatch(f"the records do not fill the {batch.count} positions of the batch")
