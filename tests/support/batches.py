"""Batches and streams of a test, and what a log says of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence

from tracelet_collector.log.base import Log, Progress

from tracelet.core.metrics import Metric, Record
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

TAG = pb.TagDef(id=1, name="loss", tag="loss", type="loss")


def run_spec(*kinds: str, run_id: str = "") -> wire.RunSpec:
    """A run with backends of these kinds."""
    backends = [wire.BackendSpec(kind=kind, target=f"sqlite:///{kind}.db", interpreter="python") for kind in kinds]
    return wire.RunSpec(
        run_id=run_id or uuid.uuid4().hex, name="a run", project="tests", created=time.time(), backends=backends
    )


def writer_spec(epoch: int = 1, owner: bool = True, writer_id: str = "w") -> wire.WriterSpec:
    """A writer."""
    return wire.WriterSpec(writer_id=writer_id, epoch=epoch, owner=owner, host="here", pid=1)


def batch(first: int, count: int, *, events: Sequence[pb.Event] = ()) -> pb.Batch:
    """`count` positions: the events first, then points of tag 1 whose value and step are their position."""
    made = pb.Batch(first_seq=first, count=count)
    for offset, event in enumerate(events):
        event.offset = offset
        made.events.append(event)
    before = 0
    for seq in range(first + len(events), first + count):
        made.tag.append(1)
        made.step_delta.append(seq - before)
        made.value.append(float(seq))
        made.wall_time.append(1.7e9 + seq)
        before = seq
    return made


def opening(count: int) -> pb.Batch:
    """The first batch of a stream: the definition of tag 1, then points."""
    return batch(0, count, events=[pb.Event(tag_def=TAG)])


def ending(first: int, status: pb.RunStatus.ValueType = pb.RUN_STATUS_FINISHED) -> pb.Batch:
    """A run's end."""
    return batch(first, 1, events=[pb.Event(run_end=pb.RunEnd(status=status, reason="said", wall_time=1.8e9))])


def drained(log: Log, run_id: str, kind: str, max_points: int = 10**9) -> Iterator[tuple[int, int, Record]]:
    """Deliver everything to nobody: stream, position and record, as an exporter's worker would decode them."""
    while (chunk := log.read(run_id, kind, max_points, 1 << 30)) is not None:
        names: dict[int, dict[int, pb.TagDef]] = {}
        for stream, definitions in chunk.dictionaries.items():
            parsed = [pb.TagDef.FromString(raw) for raw in definitions]
            names[stream] = {definition.id: definition for definition in parsed}
        for stored in chunk.batches:
            for seq, record in codec.decode(pb.Batch.FromString(stored.payload), names[stored.stream]):
                yield stored.stream, seq, record
        log.commit(run_id, kind, Progress(until=chunk.until, delivered=chunk.points))


def points(decoded: Iterable[tuple[int, Record]]) -> Iterator[int]:
    """Positions of the points of one stream, in the log's order; each must hold what `batch` put there."""
    for seq, record in decoded:
        if isinstance(record, Metric):
            assert (record.step, record.value, record.wall_time) == (seq, float(seq), 1.7e9 + seq)
            yield seq


def positions(log: Log, run_id: str, kind: str) -> list[int]:
    """Deliver everything of a run of one stream to nobody: positions of the points."""
    return list(points((seq, record) for _, seq, record in drained(log, run_id, kind)))
