"""Translates spool items into batches, and batches into records: the one place where either happens.

The writer's sender and the collector's adoption cut the same spool into batches with `encode`; the collector checks them
with `validate`, trims what it has with `cut`, stores the bytes as they came, and whoever delivers reads them with `decode`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Final

from tracelet.core.metrics import (
    INT64_MAX,
    INT64_MIN,
    Gap,
    MetaValue,
    Metric,
    Params,
    Record,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolLost, SpoolPoint

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_RECORDS",
    "WIRE_MAJOR",
    "WIRE_MINOR",
    "MalformedBatch",
    "Tally",
    "cut",
    "decode",
    "encode",
    "status_from_wire",
    "status_to_wire",
    "tally",
    "validate",
]

WIRE_MAJOR: Final = 1
WIRE_MINOR: Final = 0
MAX_BATCH_RECORDS: Final = 10_000  # events and points; spans may cover more positions
MAX_BATCH_BYTES: Final = 3 * 1024 * 1024
_TARGET_RECORDS: Final = 1_000
_TARGET_BLOB_BYTES: Final = 512 * 1024
_WRAP: Final = 2**64
_BIG_STEP: Final = re.compile(r"-?[0-9]{1,100}")

_STATUS_TO_WIRE: Final[Mapping[RunStatus, pb.RunStatus.ValueType]] = {
    RunStatus.RUNNING: pb.RUN_STATUS_RUNNING,
    RunStatus.FINISHED: pb.RUN_STATUS_FINISHED,
    RunStatus.FAILED: pb.RUN_STATUS_FAILED,
    RunStatus.KILLED: pb.RUN_STATUS_KILLED,
}
_STATUS_FROM_WIRE: Final = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


class MalformedBatch(ValueError):
    """A batch breaks the contract of records.proto; sending it again is useless."""


def status_to_wire(status: RunStatus) -> pb.RunStatus.ValueType:
    """The wire's word for a status."""
    return _STATUS_TO_WIRE[status]


def status_from_wire(status: int) -> RunStatus:
    """The status that the wire's word names; an unknown one is *killed*, the careful reading."""
    return _STATUS_FROM_WIRE.get(status, RunStatus.KILLED)  # type: ignore[call-overload, no-any-return]


# -- spool items to batches ------------------------------------------------------------------------------------------


def encode(items: Iterable[SpoolItem], target: int = _TARGET_RECORDS) -> Iterator[pb.Batch]:
    """Cut consecutive items into batches of about `target` positions.

    Args:
        items: in order of position, without holes.
        target: positions of a batch; a `SpoolLost` may make one longer.

    Yields:
        Batches that follow each other.
    """
    batch: pb.Batch | None = None
    blob_bytes = 0
    for item in items:
        if batch is None:
            batch = pb.Batch(first_seq=item.seq)
            tags: list[int] = []
            steps: list[int] = []
            values: list[float] = []
            walls: list[float] = []
            before = blob_bytes = 0
        offset = batch.count
        if type(item) is SpoolPoint:
            tags.append(item.tag)
            delta = item.step - before
            steps.append(delta if INT64_MIN <= delta <= INT64_MAX else _wrapped(delta))
            before = item.step
            values.append(item.value)
            walls.append(item.wall_time)
            batch.count = offset + 1
        elif type(item) is SpoolBlob:
            event = _event(item)
            if event is None:
                _span(batch.lost, offset, 1)
            else:
                event.offset = offset
                batch.events.append(event)
                blob_bytes += len(item.payload)
            batch.count = offset + 1
        elif type(item) is SpoolLost:
            _span(batch.lost, offset, item.positions)
            batch.count = offset + item.positions
        else:
            _span(batch.void, offset, 1)
            batch.count = offset + 1
        if batch.count >= target or blob_bytes >= _TARGET_BLOB_BYTES:
            yield _filled(batch, tags, steps, values, walls)
            batch = None
    if batch is not None:
        yield _filled(batch, tags, steps, values, walls)


def _filled(batch: pb.Batch, tags: list[int], steps: list[int], values: list[float], walls: list[float]) -> pb.Batch:
    batch.tag.extend(tags)
    batch.step_delta.extend(steps)
    batch.value.extend(values)
    batch.wall_time.extend(walls)
    return batch


def _wrapped(number: int) -> int:
    return (number - INT64_MIN) % _WRAP + INT64_MIN


def _span(spans: Any, offset: int, count: int) -> None:
    if spans and spans[-1].offset + spans[-1].count == offset:
        spans[-1].count += count
    else:
        spans.add(offset=offset, count=count)


def _event(blob: SpoolBlob) -> pb.Event | None:
    """The event that a blob says; None when its fields are not those of its kind (a spool of another make)."""
    try:
        said = json.loads(blob.payload)
        return _EVENTS[blob.kind](said)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _point_event(said: dict[str, Any]) -> pb.Event:
    point = pb.Point(tag=said["tag"], value=said["value"], wall_time=said["wall_time"])
    step = int(said["step"])
    if INT64_MIN <= step <= INT64_MAX:
        point.step = step
    else:
        point.big_step = str(step)
    _fill_values(point.metadata, said.get("metadata", {}))
    return pb.Event(point=point)


def _params_event(said: dict[str, Any]) -> pb.Event:
    params = pb.Params(wall_time=said["wall_time"])
    _fill_values(params.values, said["values"])
    return pb.Event(params=params)


def _run_end_event(said: dict[str, Any]) -> pb.Event:
    status = status_to_wire(RunStatus(said["status"]))
    return pb.Event(run_end=pb.RunEnd(status=status, reason=said["reason"], wall_time=said["wall_time"]))


_EVENTS: Final[Mapping[BlobKind, Callable[[dict[str, Any]], pb.Event]]] = {
    BlobKind.TAG_DEF: lambda said: pb.Event(tag_def=pb.TagDef(**said)),
    BlobKind.POINT: _point_event,
    BlobKind.PARAMS: _params_event,
    BlobKind.TAGS: lambda said: pb.Event(tags=pb.Tags(**said)),
    BlobKind.WRITER_SEEN: lambda said: pb.Event(writer_seen=pb.WriterSeen(**said)),
    BlobKind.RUN_END: _run_end_event,
    BlobKind.GAP: lambda said: pb.Event(gap=pb.Gap(**said)),
}


def _fill_values(into: Any, values: Mapping[str, MetaValue]) -> None:
    for key, value in values.items():
        slot = into[key]
        if isinstance(value, bool):
            slot.flag = value
        elif isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
            slot.integer = value
        elif isinstance(value, float):
            slot.number = value
        else:
            slot.text = str(value)


# -- batches to records ----------------------------------------------------------------------------------------------


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
            step = _wrapped(step)
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


def _record(event: pb.Event, names: Mapping[int, pb.TagDef]) -> Record | None:
    match event.WhichOneof("kind"):
        case "point":
            point = event.point
            step = int(point.big_step) if point.big_step else point.step
            return _metric(names[point.tag], step, point.value, point.wall_time, _values(point.metadata))
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


# -- checks ----------------------------------------------------------------------------------------------------------


class Tally:
    """What a batch holds, counted.

    Attributes:
        points: points, in columns and events.
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
        if event.HasField("point"):
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
            used.add(getattr(event, kind).tag)
            if kind == "point" and event.point.big_step and not _BIG_STEP.fullmatch(event.point.big_step):
                raise MalformedBatch(f"step {event.point.big_step[:40]!r} is not an integer of at most 100 digits")
    if unknown := [tag for tag in used if tag not in defined and tag not in known]:
        raise MalformedBatch(f"tag {unknown[0]} was never defined")


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
        step = _wrapped(step + delta)
        steps.append(step)
    gone = sum(1 for offset in _point_offsets(batch) if offset < skip)
    rest.tag.extend(batch.tag[gone:])
    before = 0
    for step in steps[gone:]:
        rest.step_delta.append(_wrapped(step - before))
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
