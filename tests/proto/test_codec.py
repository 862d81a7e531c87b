"""Batches say what the spool said, however they are cut."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet.core.metrics import Gap, Metric, Params, RunEnd, RunStatus, Tags, WriterSeen
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolLost, SpoolPoint, SpoolVoid

INT64 = st.integers(-(2**63), 2**63 - 1)


def definition(seq: int, identity: int, name: str = "loss") -> SpoolBlob:
    said = {"id": identity, "name": name, "tag": name, "log_dir": "", "type": "loss"}
    return blob(seq, BlobKind.TAG_DEF, said | {"type_inferred": True, "step_implied": False})


def blob(seq: int, kind: BlobKind, said: dict[str, Any]) -> SpoolBlob:
    return SpoolBlob(seq, kind, json.dumps(said).encode())


@st.composite
def streams(draw: st.DrawFn) -> list[SpoolItem]:
    items: list[SpoolItem] = [definition(0, 1), definition(1, 2, "acc")]
    for _ in range(draw(st.integers(0, 60))):
        seq = items[-1].seq + (items[-1].positions if isinstance(items[-1], SpoolLost) else 1)
        kind = draw(st.sampled_from("ppppppvlmt"))
        value, wall = draw(st.floats(width=64)), draw(st.floats(allow_nan=False, allow_infinity=False))
        if kind == "p":
            items.append(SpoolPoint(seq, draw(st.sampled_from([1, 2])), draw(INT64), value, wall))
        elif kind == "v":
            items.append(SpoolVoid(seq))
        elif kind == "l":
            items.append(SpoolLost(seq, draw(st.integers(1, 5))))
        elif kind == "m":
            step = draw(st.integers(-(2**70), 2**70))
            said = {
                "tag": 1,
                "value": value,
                "step": step,
                "wall_time": wall,
                "metadata": {"k": "v", "n": 3, "b": True},
            }
            items.append(blob(seq, BlobKind.POINT, said))
        else:
            items.append(blob(seq, BlobKind.TAGS, {"values": {"a": "b"}, "wall_time": wall}))
    return items


def bits(record: object) -> object:
    """Comparable to the last bit, NaN and -0.0 included."""
    if isinstance(record, Metric):
        return (record.name, struct.pack("<d", record.value), record.step, record.wall_time, dict(record.metadata))
    return record


def read(batches: list[pb.Batch]) -> list[tuple[int, object]]:
    names: dict[int, pb.TagDef] = {}
    found = []
    for batch in batches:
        wire = pb.Batch.FromString(batch.SerializeToString())
        codec.validate(wire, set(names))
        found += [(seq, bits(record)) for seq, record in codec.decode(wire, names)]
    return found


def without_gaps(found: list[tuple[int, object]]) -> list[tuple[int, object]]:
    return [(seq, record) for seq, record in found if not isinstance(record, Gap)]


@given(streams())
def test_every_point_arrives_with_its_position_and_bits(items: list[SpoolItem]) -> None:
    points = {
        item.seq: (struct.pack("<d", item.value), item.step, item.wall_time)
        for item in items
        if isinstance(item, SpoolPoint)
    }
    found = {seq: record[1:4] for seq, record in read(list(codec.encode(items))) if isinstance(record, tuple)}
    assert {seq: found[seq] for seq in points} == points
    big = {
        item.seq: json.loads(item.payload)
        for item in items
        if isinstance(item, SpoolBlob) and b'"step"' in item.payload
    }
    assert {seq: found[seq][1] for seq in big} == {seq: said["step"] for seq, said in big.items()}


@settings(max_examples=200)
@given(streams(), st.integers(1, 70), st.integers(1, 70), st.integers(0, 80))
def test_cut_elsewhere_it_says_the_same(items: list[SpoolItem], one: int, other: int, skip: int) -> None:
    whole = read(list(codec.encode(items, one)))
    assert without_gaps(read(list(codec.encode(items, other)))) == without_gaps(whole)
    # What comes twice is trimmed: the log has it up to `skip` and is sent everything again, cut another way.
    first = [cut for batch in codec.encode(items, one) if (cut := _until(batch, skip))]
    then = [cut for batch in codec.encode(items, other) if (cut := codec.cut(batch, skip))]
    assert without_gaps(read(first + then)) == without_gaps(whole)


def _until(batch: pb.Batch, end: int) -> pb.Batch | None:
    """The part before `end`, made of single-position pieces: what a log would hold."""
    if batch.first_seq + batch.count <= end:
        return batch
    if batch.first_seq >= end:
        return None
    kept = pb.Batch()
    kept.CopyFrom(batch)
    rest = codec.cut(batch, end)
    assert rest is not None
    kept.count -= rest.count
    for column in ("tag", "step_delta", "value", "wall_time"):
        values = getattr(kept, column)
        del values[len(values) - len(getattr(rest, column)) :]
    del kept.events[len(kept.events) - len(rest.events) :]
    for name in ("void", "lost"):
        spans = [(s.offset, min(s.count, kept.count - s.offset)) for s in getattr(kept, name) if s.offset < kept.count]
        kept.ClearField(name)
        for offset, count in spans:
            getattr(kept, name).add(offset=offset, count=count)
    return kept


@given(streams(), st.integers(1, 70))
def test_the_tally_counts_points_and_losses(items: list[SpoolItem], target: int) -> None:
    counts = [codec.tally(batch) for batch in codec.encode(items, target)]
    points = sum(isinstance(i, SpoolPoint) or (isinstance(i, SpoolBlob) and i.kind is BlobKind.POINT) for i in items)
    assert sum(count.points for count in counts) == points
    assert sum(count.dropped for count in counts) == sum(i.positions for i in items if isinstance(i, SpoolLost))


def test_every_kind_of_blob_becomes_its_record() -> None:
    items = [
        definition(0, 1),
        blob(
            1,
            BlobKind.PARAMS,
            {"values": {"lr": 0.1, "n": 3, "on": True, "name": "x", "huge": 2**80}, "wall_time": 1.0},
        ),
        blob(2, BlobKind.TAGS, {"values": {"team": "red"}, "wall_time": 2.0}),
        blob(3, BlobKind.WRITER_SEEN, {"log_dir": "/runs/train", "label": "train"}),
        blob(4, BlobKind.GAP, {"dropped": 7, "reason": "full", "since": 1.0, "until": 2.0}),
        blob(5, BlobKind.RUN_END, {"status": "failed", "reason": "exit code 3", "wall_time": 3.0}),
    ]
    records = [record for batch in codec.encode(items) for _, record in codec.decode(batch, {})]
    assert records == [
        Params({"huge": str(2**80), "lr": 0.1, "n": 3, "name": "x", "on": True}, 1.0),
        Tags({"team": "red"}, 2.0),
        WriterSeen("/runs/train", "train"),
        Gap(7, "full", 1.0, 2.0),
        RunEnd(RunStatus.FAILED, "exit code 3", 3.0),
    ]


def test_a_blob_of_another_make_is_a_counted_loss() -> None:
    (batch,) = codec.encode([SpoolBlob(0, BlobKind.TAGS, b'{"surprise": 1}'), SpoolBlob(1, BlobKind.PARAMS, b"\xff")])
    assert codec.tally(batch).dropped == 2


def valid() -> pb.Batch:
    (batch,) = codec.encode([definition(0, 1), SpoolPoint(1, 1, 0, math.nan, 1.0), SpoolPoint(2, 1, 1, 1.0, 1.0)])
    return batch


@pytest.mark.parametrize(
    ("breakage", "says"),
    [
        (lambda b: b.value.append(1.0), "columns"),
        (lambda b: setattr(b, "count", 0), "no position"),
        (lambda b: setattr(b, "count", 9), "fill"),
        (lambda b: setattr(b, "count", 2), "fill"),
        (lambda b: b.void.add(offset=0, count=1), "one position"),
        (lambda b: b.void.add(offset=1, count=0), "one position"),
        (lambda b: b.events.insert(0, pb.Event(offset=5)), "out of order"),
        (lambda b: b.events[0].ClearField("kind"), "kind"),
        (lambda b: b.tag.__setitem__(0, 44), "never defined"),
        (lambda b: setattr(b, "first_seq", 2**63), "range"),
        (lambda b: b.events[0].point.CopyFrom(pb.Point(tag=1, big_step="1e5")), "not an integer"),
        (lambda b: b.events[0].point.CopyFrom(pb.Point(tag=1, big_step="9" * 101)), "not an integer"),
    ],
)
def test_a_malformed_batch_is_refused(breakage: Any, says: str) -> None:
    batch = valid()
    codec.validate(batch, set())
    breakage(batch)
    with pytest.raises(codec.MalformedBatch, match=says):
        codec.validate(batch, set())


def test_a_tag_is_defined_once() -> None:
    with pytest.raises(codec.MalformedBatch, match="twice"):
        codec.validate(valid(), {1})


def test_an_oversized_batch_is_refused() -> None:
    items: list[SpoolItem] = [definition(0, 1)]
    items += [SpoolPoint(seq, 1, seq, 0.0, 0.0) for seq in range(1, codec.MAX_BATCH_RECORDS + 1)]
    (batch,) = codec.encode(items, 2 * codec.MAX_BATCH_RECORDS)
    with pytest.raises(codec.MalformedBatch, match="allowed"):
        codec.validate(batch, set())
