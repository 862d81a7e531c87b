"""Batches to records, and to what is left of a batch behind a position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tracelet.core.metrics import (
    INT64_MAX,
    INT64_MIN,
    Artifact,
    BlobRef,
    Gap,
    Media,
    MetaValue,
    Metric,
    Params,
    Record,
    RunEnd,
    Tags,
    WriterSeen,
)
from tracelet.proto.codec.statuses import status_from_wire
from tracelet.proto.codec.steps import wrapped
from tracelet.proto.v1 import records_pb2 as pb

__all__ = ["cut", "decode"]


def decode(batch: pb.Batch, names: dict[int, pb.TagDef]) -> Iterator[tuple[int, Record]]:
    """The records of a batch, in order of position.

    Args:
        batch: a valid batch.
        names: the stream's dictionary so far; the batch's own definitions are added to it.

    Yields:
        Position and record. Definitions, voids and kinds that this version does not deliver yield nothing; lost positions
        come as a `Gap`.
    """
    for event in batch.events:
        if event.WhichOneof("kind") == "tag_def":
            names[event.tag_def.id] = event.tag_def
    first = batch.first_seq
    if not batch.events and not batch.void and not batch.lost:
        for offset, point in enumerate(_points(batch, names)):
            yield first + offset, point
        return
    others: dict[int, Record | None] = {}
    for event in batch.events:
        others[event.offset] = _record(event, names)
    for span in batch.lost:
        others[span.offset] = Gap(span.count, "a part of the spool is damaged or missing", 0.0, 0.0)
    points = _points(batch, names)
    free = iter(_point_offsets(batch))
    at = next(free, None)
    for offset in sorted(others):
        while at is not None and at < offset:
            yield first + at, next(points)
            at = next(free, None)
        if (record := others[offset]) is not None:
            yield first + offset, record
    while at is not None:
        yield first + at, next(points)
        at = next(free, None)


def _points(batch: pb.Batch, names: Mapping[int, pb.TagDef]) -> Iterator[Metric]:
    step = 0
    for tag, delta, value, wall_time in zip(batch.tag, batch.step_delta, batch.value, batch.wall_time, strict=True):
        step += delta
        if not INT64_MIN <= step <= INT64_MAX:
            step = wrapped(step)
        yield _metric(names[tag], step, value, wall_time, {})


def _metric(name: pb.TagDef, step: int, value: float, wall_time: float, metadata: Mapping[str, MetaValue]) -> Metric:
    return Metric(
        name=name.name,
        value=value,
        step=step,
        wall_time=wall_time,
        type=name.type,
        metadata=metadata,
        tag=name.tag,
        log_dir=name.log_dir,
        step_implied=name.step_implied,
        type_inferred=name.type_inferred,
    )


def _media(media: pb.Media, name: pb.TagDef) -> Media:
    return Media(
        name=name.name,
        kind=name.type,
        content=_content(media),
        media_type=media.media_type,
        step=int(media.big_step) if media.big_step else media.step,
        wall_time=media.wall_time,
        metadata=_values(media.metadata),
        tag=name.tag,
        log_dir=name.log_dir,
        step_implied=name.step_implied,
    )


def _content(holder: pb.Media | pb.Artifact) -> bytes | BlobRef:
    if holder.WhichOneof("content") == "blob":
        return BlobRef(holder.blob.sha256.hex(), holder.blob.size, holder.media_type)
    return holder.inline


def _record(event: pb.Event, names: Mapping[int, pb.TagDef]) -> Record | None:
    match event.WhichOneof("kind"):
        case "point":
            point = event.point
            step = int(point.big_step) if point.big_step else point.step
            return _metric(names[point.tag], step, point.value, point.wall_time, _values(point.metadata))
        case "media":
            return _media(event.media, names[event.media.tag])
        case "artifact":
            artifact = event.artifact
            content, values = _content(artifact), _values(artifact.metadata)
            return Artifact(artifact.path, content, artifact.media_type, artifact.wall_time, values)
        case "params":
            return Params(_values(event.params.values), event.params.wall_time)
        case "tags":
            return Tags(dict(event.tags.values), event.tags.wall_time)
        case "writer_seen":
            return WriterSeen(event.writer_seen.log_dir, event.writer_seen.label)
        case "run_end":
            end = event.run_end
            return RunEnd(status_from_wire(end.status), end.reason, end.wall_time)
        case "gap":
            gap = event.gap
            return Gap(gap.dropped, gap.reason, gap.since, gap.until)
        case _:
            return None


def _values(values: Mapping[str, pb.Value]) -> dict[str, MetaValue]:
    # Sorted: a protobuf map has no order of its own, and what is delivered must not depend on one.
    return {key: getattr(values[key], values[key].WhichOneof("kind") or "text") for key in sorted(values)}


def cut(batch: pb.Batch, from_seq: int) -> pb.Batch | None:
    """The part of a valid batch from position `from_seq` on; None when nothing is left."""
    skip = from_seq - batch.first_seq
    if skip <= 0:
        return batch
    if skip >= batch.count:
        return None
    rest = pb.Batch(first_seq=from_seq, count=batch.count - skip)
    step = 0
    steps: list[int] = []
    for delta in batch.step_delta:
        step = wrapped(step + delta)
        steps.append(step)
    gone = sum(1 for offset in _point_offsets(batch) if offset < skip)
    rest.tag.extend(batch.tag[gone:])
    before = 0
    for step in steps[gone:]:
        rest.step_delta.append(wrapped(step - before))
        before = step
    rest.value.extend(batch.value[gone:])
    rest.wall_time.extend(batch.wall_time[gone:])
    for event in batch.events:
        if event.offset >= skip:
            moved = rest.events.add()
            moved.CopyFrom(event)
            moved.offset -= skip
    for spans, into in ((batch.void, rest.void), (batch.lost, rest.lost)):
        for span in spans:
            start, end = max(span.offset, skip), span.offset + span.count
            if end > start:
                into.add(offset=start - skip, count=end - start)
    return rest


def _point_offsets(batch: pb.Batch) -> Iterator[int]:
    taken = [(event.offset, 1) for event in batch.events]
    taken += [(span.offset, span.count) for span in batch.void]
    taken += [(span.offset, span.count) for span in batch.lost]
    taken.sort()
    at = 0
    for offset, count in taken:
        yield from range(at, offset)
        at = offset + count
    yield from range(at, batch.count)
