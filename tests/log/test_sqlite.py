"""The log in SQLite, as its contract says: streams, batches, cursors, dead letters, memory."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tracelet_collector.log.base import Append, DeadLetter, LogFailed, Progress, SequenceGap
from tracelet_collector.log.schema import SCHEMA_VERSION, SchemaMismatch
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import TAG, batch, drained, ending, opening, positions, run_spec, writer_spec
from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "log" / "tracelet.db")
    yield made
    made.close()


def put(log: SqliteLog, stream: int, *batches: pb.Batch) -> list[int | SequenceGap]:
    return log.append([Append(stream, made.SerializeToString()) for made in batches])


def test_what_is_appended_comes_back_as_it_came(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    first, second = opening(100), batch(100, 50)
    assert put(log, stream, first, second) == [100, 150]
    chunk = log.read(spec.run_id, "mlflow", 10**6, 10**9)
    assert chunk is not None
    assert [stored.payload for stored in chunk.batches] == [first.SerializeToString(), second.SerializeToString()]
    assert [stored.points for stored in chunk.batches] == [99, 50]
    assert chunk.points == 149
    assert chunk.dictionaries == {stream: []}
    assert log.dictionary(stream) == {1: TAG.SerializeToString()}
    assert positions(log, spec.run_id, "mlflow") == list(range(1, 150))


def test_a_gap_is_refused_and_stops_nobody_else(log: SqliteLog) -> None:
    one, two = (log.open_stream(run_spec(run_id=name), writer_spec()).stream for name in ("one", "two"))
    outcomes = put(log, one, opening(10), batch(11, 5), batch(10, 1))
    assert isinstance(outcomes[1], SequenceGap)
    assert (outcomes[1].next_seq, outcomes[1].got) == (10, 11)
    assert [outcomes[0], outcomes[2]] == [10, 11]
    assert put(log, two, batch(0, 3)) == [3]


def test_what_is_there_is_trimmed(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    assert put(log, stream, opening(10)) == [10]
    # Within one group, too: the third overlaps the second.
    assert put(log, stream, opening(10), batch(5, 10), batch(8, 20)) == [10, 15, 28]
    (run,) = log.runs(spec.run_id)
    assert run.durable == 27
    assert positions(log, spec.run_id, "mlflow") == list(range(1, 28))


def test_a_stream_is_remembered_by_run_writer_and_epoch(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tracelet.db")
    row = log.open_stream(run_spec(run_id="r"), writer_spec(epoch=2**64 - 1))
    put(log, row.stream, opening(7))
    log.close()
    log = SqliteLog(tmp_path / "tracelet.db")
    again = log.open_stream(run_spec(run_id="r"), writer_spec(epoch=2**64 - 1))
    assert (again.stream, again.epoch, again.next_seq) == (row.stream, 2**64 - 1, 7)
    assert log.open_stream(run_spec(run_id="r"), writer_spec(epoch=1)).next_seq == 0
    assert log.open_stream(run_spec(run_id="r"), writer_spec(epoch=2**64 - 1, writer_id="x")).next_seq == 0
    assert {known.epoch for known in log.streams("r")} == {1, 2**64 - 1}
    assert put(log, again.stream, batch(7, 1)) == [8]
    log.close()


def test_a_known_run_keeps_its_first_words_and_gains_backends(log: SqliteLog) -> None:
    stream = log.open_stream(run_spec("mlflow", run_id="r"), writer_spec()).stream
    put(log, stream, opening(5))
    changed = run_spec("mlflow", "wandb", run_id="r")
    changed.name, changed.backends[0].target = "another", "elsewhere"
    log.open_stream(changed, writer_spec(epoch=2, owner=False))
    (run,) = log.runs()
    assert (run.spec.name, run.spec.backends[0].target) == ("a run", "sqlite:///mlflow.db")
    assert [cursor.kind for cursor in log.cursors("r")] == ["mlflow", "wandb"]
    assert positions(log, "r", "wandb") == [1, 2, 3, 4]  # from the beginning


def test_whoever_resumes_a_run_may_say_more_of_it(log: SqliteLog) -> None:
    first, again, child = (run_spec("mlflow", run_id="r") for _ in range(3))
    first.notes, first.group = "first", "g"
    first.tags.update({"a": "1", "b": "1"})
    log.open_stream(first, writer_spec())
    again.notes, again.parent = "second", "p"
    again.tags.update({"b": "2", "c": "2"})
    log.open_stream(again, writer_spec(epoch=2))
    child.notes = "nobody asked"
    log.open_stream(child, writer_spec(epoch=3, owner=False))
    log.open_stream(first, writer_spec())  # a stream that is known: its words were heard
    (row,) = log.runs("r")
    assert (row.spec.notes, row.spec.group, row.spec.parent) == ("second", "g", "p")
    assert dict(row.spec.tags) == {"a": "1", "b": "2", "c": "2"}


def test_a_log_of_the_first_version_opens_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log" / "tracelet.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "version_1.sql").read_text())
    log = SqliteLog(path)
    (run,) = log.runs()
    assert (run.spec.run_id, run.durable, run.status) == ("of-version", 14, RunStatus.FINISHED)
    (cursor,) = log.cursors()
    assert (cursor.delivered, cursor.dead, cursor.lag_points, cursor.state) == (8, 1, 5, '{"run": "x"}')
    assert log.recall("of-version", "mlflow", [5]) == {5: 6}
    assert len(log.dead_letters()) == 1
    spec = run_spec("mlflow", run_id="of-version")
    spec.parent = "p"
    blob = pb.BlobRef(sha256=bytes(32), size=20_000)
    media = pb.Media(tag=1, step=3, wall_time=1.0, media_type="image/png", blob=blob)
    stream = log.open_stream(spec, writer_spec(epoch=2)).stream
    assert put(log, stream, batch(0, 4, events=[pb.Event(tag_def=TAG), pb.Event(media=media)])) == [4]
    assert log.open_stream(spec, writer_spec()).next_seq == 16
    decoded = [record for _, _, record in drained(log, "of-version", "mlflow")]
    assert len(decoded) == 9  # five points, the end, media and two points
    log.close()


def test_only_its_owner_ends_a_run_and_the_last_word_counts(log: SqliteLog) -> None:
    spec = run_spec()
    owner = log.open_stream(spec, writer_spec())
    child = log.open_stream(spec, writer_spec(epoch=2, owner=False))
    put(log, child.stream, ending(0, pb.RUN_STATUS_FAILED))
    assert log.runs()[0].status is RunStatus.RUNNING
    put(log, owner.stream, opening(3), ending(3, pb.RUN_STATUS_KILLED))
    assert (log.runs()[0].status, log.runs()[0].ended) == (RunStatus.KILLED, 1.8e9)
    assert [row.ended for row in log.streams(spec.run_id)] == [True, True]
    put(log, owner.stream, ending(4))
    assert log.runs()[0].status is RunStatus.FINISHED
    log.open_stream(spec, writer_spec())  # the same stream: nothing begins anew
    assert log.runs()[0].status is RunStatus.FINISHED
    log.open_stream(spec, writer_spec(epoch=3))
    assert (log.runs()[0].status, log.runs()[0].ended) == (RunStatus.RUNNING, None)


def test_labels_and_drops_are_part_of_the_run(log: SqliteLog) -> None:
    stream = log.open_stream(run_spec(), writer_spec()).stream
    lost = pb.Batch(first_seq=4, count=1000, lost=[pb.Span(offset=0, count=1000)])
    events = [
        pb.Event(writer_seen=pb.WriterSeen(log_dir="runs/a", label="a")),
        pb.Event(writer_seen=pb.WriterSeen(log_dir="runs/b", label="")),
        pb.Event(gap=pb.Gap(dropped=2**63 + 5, reason="no room")),
        pb.Event(writer_seen=pb.WriterSeen(log_dir="runs/a", label="a_2")),
    ]
    assert put(log, stream, batch(0, 4, events=events), lost) == [4, 1004]
    (run,) = log.runs()
    assert run.labels == {"runs/a": "a_2", "runs/b": ""}
    assert (run.durable, run.dropped) == (0, 2**62)  # more than anybody can drop; still a number


def test_reading_stops_at_the_limits_but_gives_one_batch(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    put(log, stream, opening(11), batch(11, 10), batch(21, 10))
    for points, size, batches in ((1, 10**6, 1), (20, 10**6, 2), (29, 10**6, 2), (30, 10**6, 3), (30, 1, 1)):
        chunk = log.read(spec.run_id, "mlflow", points, size)
        assert chunk is not None
        assert (len(chunk.batches), chunk.points) == (batches, batches * 10)
    assert log.read(spec.run_id, "wandb", 1, 1) is None
    assert log.read("unknown", "mlflow", 1, 1) is None


def test_a_chunk_brings_the_definitions_that_came_before_it(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    late = pb.TagDef(id=2, name="late")
    put(log, stream, opening(5), batch(5, 5), batch(10, 5, events=[pb.Event(tag_def=late)]), batch(15, 5))
    seen = []
    while (chunk := log.read(spec.run_id, "mlflow", 1, 1)) is not None:
        seen.append([pb.TagDef.FromString(raw).id for raw in chunk.dictionaries[stream]])
        log.commit(spec.run_id, "mlflow", Progress(chunk.until, delivered=chunk.points))
    assert seen == [[], [1], [1], [1, 2]]


def test_the_books_balance_at_every_step(log: SqliteLog) -> None:
    spec = run_spec("mlflow", "wandb")
    stream = log.open_stream(spec, writer_spec()).stream
    put(log, stream, opening(11), batch(11, 10), batch(21, 10))
    chunk = log.read(spec.run_id, "mlflow", 20, 10**6)
    assert chunk is not None
    letter = DeadLetter(spec.run_id, "mlflow", chunk.until, 12, "loss", "a step outside int64", "{}")
    log.commit(
        spec.run_id,
        "mlflow",
        Progress(
            chunk.until, delivered=14, collapsed=3, rerouted=2, dead=[letter], state='{"a": 1}', stamps={-5: 2**63 - 1}
        ),
    )
    ((run, (mlflow, wandb)),) = log.overview()
    assert run.durable == 30
    assert (mlflow.delivered, mlflow.collapsed, mlflow.rerouted, mlflow.dead, mlflow.lag_points) == (14, 3, 2, 1, 10)
    assert (mlflow.state, mlflow.settled, mlflow.lsn) == ('{"a": 1}', False, chunk.until)
    assert (wandb.lag_points, wandb.delivered, wandb.settled) == (30, 0, False)
    assert wandb.oldest is not None
    assert mlflow.oldest is not None
    assert log.dead_letters() == log.dead_letters(spec.run_id) == [dataclasses.replace(letter, letter=1)]
    assert log.recall(spec.run_id, "mlflow", [-5, 6]) == {-5: 2**63 - 1}
    assert log.recall(spec.run_id, "wandb", [-5]) == {}

    # The same again, after an answer that got lost: nothing moves.
    log.commit(spec.run_id, "mlflow", Progress(chunk.until, delivered=20))
    assert log.cursors(spec.run_id)[0] == mlflow
    assert sum(1 for _ in drained(log, spec.run_id, "mlflow")) == 10
    done = log.cursors(spec.run_id)[0]
    assert (done.settled, done.oldest, done.lag_points, done.state) == (True, None, 0, '{"a": 1}')


def test_events_alone_leave_a_cursor_unsettled(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    assert log.cursors()[0].settled
    put(log, stream, ending(0))
    (cursor,) = log.cursors()
    assert (cursor.settled, cursor.lag_points) == (False, 0)


@pytest.mark.parametrize("progress", [Progress(1, delivered=9), Progress(1, delivered=11), Progress(7, delivered=10)])
def test_progress_that_does_not_add_up_is_refused(log: SqliteLog, progress: Progress) -> None:
    spec = run_spec("mlflow")
    put(log, log.open_stream(spec, writer_spec()).stream, opening(11))
    before = log.cursors()
    with pytest.raises(ValueError, match="accounts for"):
        log.commit(spec.run_id, "mlflow", progress)
    assert log.cursors() == before
    with pytest.raises(ValueError, match="no cursor"):
        log.commit(spec.run_id, "wandb", progress)
    log.commit(spec.run_id, "mlflow", Progress(1, delivered=10))


def test_memory_takes_many_keys(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    put(log, log.open_stream(spec, writer_spec()).stream, opening(1))
    stamps = {key * 7919 - 2**63: -key for key in range(3000)}
    log.commit(spec.run_id, "mlflow", Progress(1, stamps=stamps))
    assert log.recall(spec.run_id, "mlflow", [*stamps, 5]) == stamps


def test_readers_do_not_wait_for_the_writer(log: SqliteLog) -> None:
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    put(log, stream, opening(10))
    read = threading.Event()
    with log._handle.lock, log._handle.transaction() as db:
        db.execute("UPDATE runs SET durable = 99")
        threading.Thread(target=lambda: log.overview() and read.set()).start()
        assert read.wait(60)
        assert log.runs()[0].durable == 9
        db.execute("UPDATE runs SET durable = 9")


def test_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tracelet.db")
    stream = log.open_stream(run_spec(), writer_spec()).stream
    filler = pb.Params(values={"text": pb.Value(text="x" * 400_000)})
    largest = 0
    for seq in range(100):
        put(log, stream, batch(seq, 1, events=[pb.Event(params=filler)]))
        largest = max(largest, (tmp_path / "tracelet.db-wal").stat().st_size)
    log.close()
    assert (tmp_path / "tracelet.db").stat().st_size > 30 * 2**20
    assert largest < 24 * 2**20
    with sqlite3.connect(tmp_path / "tracelet.db") as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_other_versions_and_strangers_are_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    SqliteLog(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SchemaMismatch, match="upgrade tracelet"):
        SqliteLog(newer)

    stranger = tmp_path / "stranger.db"
    with sqlite3.connect(stranger) as db:
        db.execute("CREATE TABLE theirs (a)")
    with pytest.raises(SchemaMismatch, match="move the file away"):
        SqliteLog(stranger)
    with sqlite3.connect(stranger) as db:
        assert [row[0] for row in db.execute("SELECT name FROM sqlite_master")] == ["theirs"]
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"

    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 1000)
    with pytest.raises(LogFailed, match="not a database"):
        SqliteLog(garbage)
    assert garbage.read_bytes() == b"no database at all" * 1000


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "tracelet.db")
    stream = log.open_stream(run_spec(), writer_spec()).stream
    log.close()
    with pytest.raises(LogFailed):
        put(log, stream, opening(1))
    with pytest.raises(LogFailed):
        log.runs()


def test_a_rewound_cursor_begins_anew(log: SqliteLog) -> None:
    stream = log.open_stream(run_spec("mlflow", run_id="r"), writer_spec()).stream
    put(log, stream, opening(11))
    chunk = log.read("r", "mlflow", 100, 1 << 20)
    assert chunk is not None
    dead = [DeadLetter("r", "mlflow", chunk.until, 0, "loss", "no", "{}")]
    log.commit("r", "mlflow", Progress(chunk.until, delivered=9, dead=dead, state="{}", stamps={1: 2}))
    assert log.cursors("r")[0].settled
    assert log.rewind("r", "mlflow") == 10
    (cursor,) = log.cursors("r")
    assert (cursor.lsn, cursor.delivered, cursor.dead, cursor.lag_points, cursor.state) == (0, 0, 0, 10, "")
    assert log.recall("r", "mlflow", [1]) == {}
    assert log.dead_letters("r") == []
    with pytest.raises(ValueError, match="no cursor"):
        log.rewind("r", "other")


def test_a_backend_that_comes_later_has_all_before_it(log: SqliteLog) -> None:
    stream = log.open_stream(run_spec("mlflow", run_id="r"), writer_spec()).stream
    put(log, stream, opening(11))
    again = wire.BackendSpec(kind="mlflow", target="http://other", slot="mlflow@other")
    for _ in range(2):
        log.add_backend("r", again)
    assert [(c.kind, c.lag_points) for c in log.cursors("r")] == [("mlflow", 10), ("mlflow@other", 10)]
    assert [backend.target for backend in log.runs("r")[0].spec.backends][1:] == ["http://other"]
    with pytest.raises(ValueError, match="no run"):
        log.add_backend("nobody", again)
