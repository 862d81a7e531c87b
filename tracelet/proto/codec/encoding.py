"""Spool items to batches."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from tracelet.core.metrics import INT64_MAX, INT64_MIN, MetaValue, RunStatus
from tracelet.proto.codec.checks import is_artifact_path, validate_content
from tracelet.proto.codec.statuses import status_to_wire
from tracelet.proto.codec.steps import wrapped
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolLost, SpoolPoint

__all__ = ["encode"]

_TARGET_RECORDS: Final = 1_000
_TARGET_BLOB_BYTES: Final = 512 * 1024


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
            steps.append(delta if INT64_MIN <= delta <= INT64_MAX else wrapped(delta))
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


def _media_event(said: dict[str, Any]) -> pb.Event:
    media = pb.Media(tag=said["tag"], wall_time=said["wall_time"], media_type=said["media_type"])
    step = int(said["step"])
    if INT64_MIN <= step <= INT64_MAX:
        media.step = step
    else:
        media.big_step = str(step)
    _fill_content(media, said)
    _fill_values(media.metadata, said.get("metadata", {}))
    return pb.Event(media=media)


def _artifact_event(said: dict[str, Any]) -> pb.Event:
    if not is_artifact_path(said["path"]):
        raise ValueError("no path of an artifact")
    artifact = pb.Artifact(path=said["path"], wall_time=said["wall_time"], media_type=said["media_type"])
    _fill_content(artifact, said)
    _fill_values(artifact.metadata, said.get("metadata", {}))
    return pb.Event(artifact=artifact)


def _fill_content(into: pb.Media | pb.Artifact, said: dict[str, Any]) -> None:
    if "inline" in said:
        into.inline = b64decode(said["inline"], validate=True)
    else:
        into.blob.sha256, into.blob.size = bytes.fromhex(said["blob"]), said["size"]
    validate_content(into)


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
    BlobKind.MEDIA: _media_event,
    BlobKind.ARTIFACT: _artifact_event,
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
