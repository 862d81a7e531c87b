"""However a stream is cut into batches, and however often parts of it come again, the log says the same."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tracelet_collector.log.base import Append, SequenceGap
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import drained, run_spec, writer_spec
from tracelet.core.metrics import Metric
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolLost, SpoolPoint, SpoolVoid

_floats = st.floats(allow_nan=True, allow_infinity=True)
_int64 = st.integers(-(2**63), 2**63 - 1)
_kinds = st.sampled_from(["point", "point", "point", "point", "big", "params", "void", "lost", "def"])


@st.composite
def streams(draw: st.DrawFn) -> list[SpoolItem]:
    """What a spool may hold, in order of position."""
    items: list[SpoolItem] = []
    tags = seq = 0

    def blob(kind: BlobKind, said: dict[str, Any]) -> SpoolBlob:
        return SpoolBlob(seq, kind, json.dumps(said).encode())

    for kind in ["def", *draw(st.lists(_kinds, min_size=1, max_size=80))]:
        if kind == "def":
            tags += 1
            items.append(blob(BlobKind.TAG_DEF, {"id": tags, "name": f"m{tags}", "type": "loss"}))
        elif kind == "point":
            items.append(SpoolPoint(seq, draw(st.integers(1, tags)), draw(_int64), draw(_floats), draw(_floats)))
        elif kind == "big":
            step = draw(st.integers(-(2**80), 2**80))
            said = {"tag": tags, "step": step, "value": draw(_floats), "wall_time": 1.0, "metadata": {"k": "v"}}
            items.append(blob(BlobKind.POINT, said))
        elif kind == "params":
            items.append(blob(BlobKind.PARAMS, {"values": {"lr": draw(_floats)}, "wall_time": 2.0}))
        elif kind == "void":
            items.append(SpoolVoid(seq))
        else:
            items.append(SpoolLost(seq, draw(st.integers(1, 3))))
        seq = _end(items[-1])
    return items


def _end(item: SpoolItem) -> int:
    return item.seq + (item.positions if isinstance(item, SpoolLost) else 1)


@pytest.fixture(scope="module")
def log() -> Iterator[SqliteLog]:
    folder = Path(tempfile.mkdtemp(prefix="tlt-"))
    made = SqliteLog(folder / "tracelet.db")
    yield made
    made.close()
    shutil.rmtree(folder)


def _told(log: SqliteLog, run_id: str, max_points: int) -> list[tuple[int, str]]:
    """Position and record (by its words, so that a NaN equals itself); lost positions apart, as they may be cut."""
    lost: set[int] = set()
    records = []
    for _, seq, record in drained(log, run_id, "mlflow", max_points):
        if type(record).__name__ == "Gap":
            lost |= set(range(seq, seq + record.dropped))
        else:
            records.append((seq, repr(record)))
    return [*records, (-1, repr(sorted(lost)))]


_visits = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 80), st.integers(1, 40)), max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=streams(), visits=_visits, chunk=st.integers(1, 50))
def test_the_same_stream_cut_anywhere_and_told_again_is_the_same(
    log: SqliteLog, items: list[SpoolItem], visits: list[tuple[int, int, int]], chunk: int
) -> None:
    end = _end(items[-1])
    whole, cut = run_spec("mlflow"), run_spec("mlflow")
    stream = log.open_stream(whole, writer_spec()).stream
    log.append([Append(stream, made.SerializeToString()) for made in codec.encode(items, 10**6)])

    stream = log.open_stream(cut, writer_spec()).stream
    durable = 0
    # A writer that comes back now and then: from anywhere, in batches of any size, several a commit; at last from the start.
    for start, length, size in [*visits, (0, len(items), 7)]:
        told = items[start : start + length]
        if not told:
            continue
        outcomes = log.append([Append(stream, made.SerializeToString()) for made in codec.encode(told, size)])
        if told[0].seq > durable:
            assert all(isinstance(outcome, SequenceGap) for outcome in outcomes)
        else:
            durable = max(durable, _end(told[-1]))
            assert outcomes[-1] == durable
    assert log.streams(cut.run_id)[0].next_seq == end
    first, second = log.runs(whole.run_id)[0], log.runs(cut.run_id)[0]
    assert (first.durable, first.dropped) == (second.durable, second.dropped)
    assert _told(log, whole.run_id, 10**9) == _told(log, cut.run_id, chunk)


@given(first=st.integers(1, 2**62), count=st.integers(1, 100))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_skipped_positions_are_refused(log: SqliteLog, first: int, count: int) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    skipping = pb.Batch(first_seq=first, count=count, void=[pb.Span(offset=0, count=count)])
    (outcome,) = log.append([Append(stream, skipping.SerializeToString())])
    assert isinstance(outcome, SequenceGap)
    assert log.read(spec.run_id, "mlflow", 10**6, 10**6) is None
    assert log.streams(spec.run_id)[0].next_seq == 0


def test_float64_values_survive(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    values = [0.1, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 2**53 + 2.0]
    define = SpoolBlob(0, BlobKind.TAG_DEF, b'{"id": 1, "name": "m"}')
    steps = [0, 2**53 + 1, -(2**63), 2**63 - 1, -1, 5, 5, 4]
    points = [SpoolPoint(1 + i, 1, steps[i], value, 0.1 + i) for i, value in enumerate(values)]
    for made in codec.encode([define, *points], 3):
        log.append([Append(stream, made.SerializeToString())])
    found = [record for _, _, record in drained(log, spec.run_id, "mlflow") if isinstance(record, Metric)]
    assert [record.value.hex() for record in found] == [value.hex() for value in values]
    assert [record.step for record in found] == steps
    assert [record.wall_time for record in found] == [0.1 + i for i in range(len(values))]
