"""Delivery in a test: a home, the real log, and records put into it as a writer's batches."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tracelet_collector.blobs import blob_path
from tracelet_collector.delivery import Delivery, Live, Patience
from tracelet_collector.home import blobs_path
from tracelet_collector.log.base import Append, BackendCursor, Log
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.processes import until
from tracelet.core.metrics import (
    INT64_MAX,
    INT64_MIN,
    Artifact,
    BlobRef,
    Gap,
    Media,
    Metric,
    Params,
    Record,
    RunEnd,
    Tags,
    WriterSeen,
)
from tracelet.proto.codec import status_to_wire, validate
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

__all__ = ["HASTY", "Desk", "Writer", "run_spec"]

HASTY = Patience(first=0.05, most=0.5, paused=0.3, idle=60.0, sweep=60.0)


def run_spec(run_id: str, target: str, *, interpreter: str = sys.executable, **more: Any) -> wire.RunSpec:
    """A run that goes to MLflow."""
    backend = wire.BackendSpec(
        kind=more.pop("kind", "mlflow"), target=target, interpreter=interpreter, credentials=more.pop("credentials", "")
    )
    said = {"name": f"name of {run_id}", "project": "a project", "created": 1_700_000_000.0} | more
    return wire.RunSpec(run_id=run_id, backends=[backend], **said)


@dataclass
class Writer:
    """A writer of a run, whose records go straight into the log."""

    log: Log
    run: wire.RunSpec
    epoch: int = 1
    next_seq: int = 0
    _tags: dict[tuple[object, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        writer = wire.WriterSpec(writer_id=f"w-{self.run.run_id}", epoch=self.epoch, owner=True, host="here", pid=1)
        row = self.log.open_stream(self.run, writer)
        self.stream = row.stream

    def write(self, records: Sequence[Record], cut: int = 1000) -> None:
        """Append records, in batches of `cut`, durably."""
        for start in range(0, len(records), cut):
            batch = self._batch(records[start : start + cut])
            validate(batch, self.log.dictionary(self.stream))
            (result,) = self.log.append([Append(self.stream, batch.SerializeToString())])
            assert result == self.next_seq

    def write_raw(self, payload: bytes) -> None:
        """Append bytes as they are."""
        self.log.append([Append(self.stream, payload)])

    def _batch(self, records: Iterable[Record]) -> pb.Batch:
        batch = pb.Batch(first_seq=self.next_seq)
        step = 0
        for record in records:
            if isinstance(record, Metric):
                tag = self._tag(batch, record)
                if record.metadata or not INT64_MIN <= record.step <= INT64_MAX:
                    batch.events.append(self._point(record, tag, batch.count))
                else:
                    delta = record.step - step
                    batch.step_delta.append((delta + 2**63) % 2**64 - 2**63)
                    step = record.step
                    batch.tag.append(tag)
                    batch.value.append(record.value)
                    batch.wall_time.append(record.wall_time)
            elif isinstance(record, Media):
                tag = self._tag(batch, record)
                batch.events.append(pb.Event(offset=batch.count, media=_media(record, tag)))
            else:
                batch.events.append(_event(record, batch.count))
            batch.count += 1
        self.next_seq += batch.count
        return batch

    def _tag(self, batch: pb.Batch, point: Metric | Media) -> int:
        kind, inferred = (point.type, point.type_inferred) if isinstance(point, Metric) else (point.kind, False)
        key = (point.name, kind, inferred, point.step_implied)
        if key not in self._tags:
            self._tags[key] = len(self._tags)
            definition = pb.TagDef(
                id=self._tags[key],
                name=point.name,
                tag=point.tag,
                type=kind,
                type_inferred=inferred,
                step_implied=point.step_implied,
            )
            batch.events.append(pb.Event(offset=batch.count, tag_def=definition))
            batch.count += 1
        return self._tags[key]

    @staticmethod
    def _point(record: Metric, tag: int, offset: int) -> pb.Event:
        point = pb.Point(tag=tag, value=record.value, wall_time=record.wall_time)
        if INT64_MIN <= record.step <= INT64_MAX:
            point.step = record.step
        else:
            point.big_step = str(record.step)
        for name, value in record.metadata.items():
            point.metadata[name].CopyFrom(_value(value))
        return pb.Event(offset=offset, point=point)


def _value(value: object) -> pb.Value:
    match value:
        case bool():
            return pb.Value(flag=value)
        case int():
            return pb.Value(integer=value)
        case float():
            return pb.Value(number=value)
        case _:
            return pb.Value(text=str(value))


def _media(record: Media, tag: int) -> pb.Media:
    media = pb.Media(tag=tag, wall_time=record.wall_time, media_type=record.media_type)
    if INT64_MIN <= record.step <= INT64_MAX:
        media.step = record.step
    else:
        media.big_step = str(record.step)
    _fill(media, record)
    return media


def _fill(into: pb.Media | pb.Artifact, record: Media | Artifact) -> None:
    if isinstance(record.content, BlobRef):
        into.blob.sha256, into.blob.size = bytes.fromhex(record.content.sha256), record.content.size
    else:
        into.inline = record.content
    for name, value in record.metadata.items():
        into.metadata[name].CopyFrom(_value(value))


def _event(record: Record, offset: int) -> pb.Event:
    match record:
        case Artifact():
            artifact = pb.Artifact(path=record.path, wall_time=record.wall_time, media_type=record.media_type)
            _fill(artifact, record)
            return pb.Event(offset=offset, artifact=artifact)
        case Params():
            params = pb.Params(wall_time=record.wall_time)
            for name, value in record.values.items():
                params.values[name].CopyFrom(_value(value))
            return pb.Event(offset=offset, params=params)
        case Tags():
            return pb.Event(offset=offset, tags=pb.Tags(values=dict(record.values), wall_time=record.wall_time))
        case WriterSeen():
            return pb.Event(offset=offset, writer_seen=pb.WriterSeen(log_dir=record.log_dir, label=record.label))
        case RunEnd():
            end = pb.RunEnd(status=status_to_wire(record.status), reason=record.reason, wall_time=record.wall_time)
            return pb.Event(offset=offset, run_end=end)
        case Gap():
            gap = pb.Gap(dropped=record.dropped, reason=record.reason, since=record.since, until=record.until)
            return pb.Event(offset=offset, gap=gap)
        case _:
            raise TypeError(record)


class Desk:
    """A home with its log, and the delivery that empties it."""

    def __init__(self, home: Path, patience: Patience = HASTY) -> None:
        self.home = home
        self.patience = patience
        home.mkdir(parents=True, exist_ok=True)
        self.log = SqliteLog(home / "log" / "tracelet.db")
        self.delivery = Delivery(self.log, home, patience)

    def __enter__(self) -> Desk:
        self.delivery.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delivery.stop(20.0)
        self.log.close()

    def blob(self, data: bytes, media_type: str = "") -> BlobRef:
        """Content in the store."""
        name = hashlib.sha256(data).hexdigest()
        path = blob_path(blobs_path(self.home), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return BlobRef(name, len(data), media_type)

    def cursor(self, run_id: str, kind: str = "mlflow") -> BackendCursor:
        """Where a run's backend stands."""
        (found,) = [cursor for cursor in self.log.cursors(run_id) if cursor.kind == kind]
        return found

    def live(self, run_id: str, kind: str = "mlflow") -> Live:
        """How a run's delivery goes."""
        return self.delivery.live().get((run_id, kind), Live("ok", "", 0))

    def until_settled(self, *run_ids: str, seconds: float = 60.0) -> None:
        """Wait until runs are delivered whole, and check that the account is right."""
        for run_id in run_ids:
            until(lambda run_id=run_id: self.cursor(run_id).settled, seconds, f"{run_id}: {self.live(run_id)}")
            (row,) = self.log.runs(run_id)
            cursor = self.cursor(run_id)
            assert cursor.lag_points == 0
            assert row.durable == cursor.delivered + cursor.collapsed + cursor.rerouted + cursor.dead

    def until_state(self, run_id: str, state: str, seconds: float = 60.0) -> Live:
        """Wait until a run's delivery is in a state."""
        until(lambda: self.live(run_id).state == state, seconds, f"{run_id} is {state}")
        return self.live(run_id)

    def until_worker(self, run_id: str, other_than: int = 0, seconds: float = 60.0) -> int:
        """Wait for a worker to be there; its process."""
        until(lambda: self.live(run_id).worker_pid not in (0, other_than), seconds, "a worker")
        return self.live(run_id).worker_pid
