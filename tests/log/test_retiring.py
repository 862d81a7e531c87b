"""Runs leave the log: what goes, what stays, who may go, and what a kill in the middle of it leaves."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tracelet_collector.blobs import BlobStore, blob_path
from tracelet_collector.home import blobs_path, log_path
from tracelet_collector.log.base import BackendCursor, DeadLetter, Progress, Retired
from tracelet_collector.log.retiring import KEPT
from tracelet_collector.log.schema import SCHEMA_VERSION
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import drained
from tests.support.delivering import Desk, Writer, run_spec
from tests.support.processes import BUSY, until
from tracelet.core.metrics import Media, Metric, RunEnd, RunStatus
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

T0 = 1_700_000_000.0
END = RunEnd(RunStatus.FINISHED, "", T0 + 60)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A home and its log; nothing delivers."""
    made = Desk(tmp_path / "home")
    yield made
    made.log.close()


@pytest.fixture
def blobs(desk: Desk) -> BlobStore:
    return BlobStore(blobs_path(desk.home))


def points(count: int, start: int = 0) -> list[Metric]:
    return [Metric("loss", step / 7, step, T0 + step / 1000) for step in range(start, start + count)]


def picture(desk: Desk, word: str) -> Media:
    return Media("img", "image", desk.blob(word.encode() * 100, "image/png"), "image/png", 1, T0)


def sha256(media: Media) -> str:
    assert not isinstance(media.content, bytes)
    return media.content.sha256


def deliver(log: SqliteLog, run_id: str, dead: int = 0, **more: object) -> None:
    """Everything of a run, to nobody; the first points are dead."""
    chunk = log.read(run_id, "mlflow", 10**6, 10**9)
    assert chunk is not None
    letters = [DeadLetter(run_id, "mlflow", chunk.batches[0].lsn, 1 + at, "loss", "no", "{}") for at in range(dead)]
    log.commit(run_id, "mlflow", Progress(chunk.until, chunk.points - dead, dead=letters, **more))  # type: ignore[arg-type]


def retire(desk: Desk, blobs: BlobStore, run_id: str) -> None:
    assert desk.log.retire(run_id)
    for _ in desk.log.purge(blobs.remove):
        pass


def rows(home: Path, table: str) -> int:
    with closing(sqlite3.connect(log_path(home))) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def cursor(log: SqliteLog, run_id: str, kind: str = "mlflow") -> BackendCursor:
    """The cursor, once it is seen that its account is right."""
    (run,) = log.runs(run_id)
    (found,) = [each for each in log.cursors(run_id) if each.kind == kind]
    assert run.durable == found.delivered + found.collapsed + found.rerouted + found.dead + found.lag_points
    assert found.dead == log.count_dead_letters(run_id, kind) + found.forgotten
    return found


def test_what_goes_and_what_stays(desk: Desk, blobs: BlobStore) -> None:
    log = desk.log
    mine, shared = picture(desk, "mine"), picture(desk, "shared")
    old, young = (Writer(log, run_spec(name, "t")) for name in ("old", "young"))
    old.write([*points(100), mine, shared, END], cut=10)
    young.write([*points(10), shared], cut=10)
    deliver(
        log,
        "old",
        dead=2,
        state='{"link": "there"}',
        stamps={1: 3, 2: KEPT - 1, 3: KEPT, 4: -KEPT, 5: 1_700_000_000_000},
    )
    deliver(log, "young", stamps={3: KEPT})
    before = cursor(log, "old")
    assert log.size() > 0
    retire(desk, blobs, "old")
    assert cursor(log, "old") == before
    assert [run.retired for run in log.runs()] == [True, False]
    assert [letter.retired for letter in log.dead_letters()] == [True, True]
    assert log.recall("old", "mlflow", range(1, 6)) == {1: 3, 2: KEPT - 1}
    assert log.recall("young", "mlflow", [3]) == {3: KEPT}
    assert log.dictionary(old.stream) == {}
    assert log.dictionary(young.stream)
    assert not blob_path(blobs.root, sha256(mine)).exists()
    assert blob_path(blobs.root, sha256(shared)).exists()
    assert rows(desk.home, "batches") == 2
    # The last of those that named it.
    young.write([END])
    deliver(log, "young")
    retire(desk, blobs, "young")
    assert not blob_path(blobs.root, sha256(shared)).exists()
    assert rows(desk.home, "batches") == rows(desk.home, "blobs") == rows(desk.home, "tags") == 0
    assert list(log.purge(blobs.remove)) == []
    assert log.retirable() == []


def test_who_may_go(desk: Desk) -> None:
    log = desk.log
    writers = {
        name: Writer(log, run_spec(name, "t"))
        for name in ("running", "behind", "redriven", "first", "second", "nowhere")
    }
    for name, writer in writers.items():
        end = replace(END, wall_time=END.wall_time + (1e9 if name == "first" else 2e9))
        writer.write([*points(10), *([end] if name != "running" else [])])
        if name != "behind":
            deliver(log, name, dead=1)
    homeless = run_spec("homeless", "t")
    del homeless.backends[:]
    Writer(log, homeless).write([*points(10), END])  # nobody else has it
    log.redrive([letter.letter for letter in log.dead_letters("redriven")])
    log.add_backend("nowhere", wire.BackendSpec(kind="wandb", target="t"))
    assert [(run.run_id, run.since) for run in log.retirable()] == [("first", T0 + 60 + 1e9), ("second", T0 + 60 + 2e9)]
    for name in (*writers, "homeless", "unknown"):
        assert log.retire(name) == (name in ("first", "second"))
    assert [run.spec.run_id for run in log.runs() if run.retired] == ["first", "second"]


def test_a_run_that_came_late_is_young(desk: Desk) -> None:
    """It ended long ago on another machine; here it is new."""
    Writer(desk.log, run_spec("r", "t")).write([*points(10), replace(END, wall_time=1.0)])
    deliver(desk.log, "r")
    (run,) = desk.log.retirable()
    assert run.since > T0


def test_what_is_refused_of_a_retired_run(desk: Desk, blobs: BlobStore) -> None:
    log = desk.log
    Writer(log, run_spec("r", "t")).write([*points(10), END])
    deliver(log, "r", dead=2)
    log.retire("r")
    for _ in range(2):  # marked, and then purged
        with pytest.raises(Retired, match="no longer in the log"):
            log.rewind("r", "mlflow")
        with pytest.raises(Retired, match="no longer in the log"):
            log.add_backend("r", wire.BackendSpec(kind="wandb", target="t"))
        assert log.redrive([1, 2]) == (0, 2)
        assert cursor(log, "r").settled
        list(log.purge(blobs.remove))
    assert log.forget([1]) == 1
    assert (cursor(log, "r").dead, cursor(log, "r").forgotten) == (2, 1)


def test_a_retired_run_goes_on(desk: Desk, blobs: BlobStore) -> None:
    log = desk.log
    Writer(log, run_spec("r", "t")).write([*points(100), picture(desk, "one"), END], cut=10)
    deliver(log, "r", state='{"a": 1}')
    retire(desk, blobs, "r")
    again = run_spec("r", "t")
    again.backends.add(kind="wandb", target="w", interpreter="python")
    media = picture(desk, "one")
    writer = Writer(log, again, epoch=2)
    (run,) = log.runs("r")
    assert (run.status, run.retired) == (RunStatus.RUNNING, True)
    writer.write([*points(20, start=100), media], cut=10)
    # To the one that had all of it, what is new; to the one that is new, too: the rest never reaches it.
    assert (cursor(log, "r").lag_points, cursor(log, "r").state) == (21, '{"a": 1}')
    late = cursor(log, "r", "wandb")
    assert (late.lag_points, late.dead, late.forgotten) == (21, 101, 101)
    for kind in ("mlflow", "wandb"):
        records = [record for _, _, record in drained(log, "r", kind)]
        assert [record.step for record in records if isinstance(record, Metric)] == list(range(100, 120))
        assert cursor(log, "r", kind).settled
    assert blob_path(blobs.root, sha256(media)).exists()
    with pytest.raises(Retired):
        log.rewind("r", "mlflow")
    assert not log.retire("r")  # it has not ended
    writer.write([END])
    for kind in ("mlflow", "wandb"):
        list(drained(log, "r", kind))
    retire(desk, blobs, "r")
    assert not blob_path(blobs.root, sha256(media)).exists()
    assert rows(desk.home, "batches") == 0
    assert cursor(log, "r").delivered == 122


def test_a_writer_that_is_late_finds_its_definitions(desk: Desk, blobs: BlobStore) -> None:
    """Another writer of a run that has ended, which has not: its stream has no end."""
    log = desk.log
    child = Writer(log, run_spec("r", "t"), epoch=2)
    child.write(points(10))
    Writer(log, run_spec("r", "t")).write([END])
    deliver(log, "r")
    retire(desk, blobs, "r")
    child.write(points(5, start=10))
    records = [record for _, _, record in drained(log, "r", "mlflow")]
    assert [record.step for record in records if isinstance(record, Metric)] == list(range(10, 15))


def test_content_that_somebody_holds_stays_until_he_has_named_it(desk: Desk, blobs: BlobStore) -> None:
    log = desk.log
    media = picture(desk, "it")
    Writer(log, run_spec("old", "t")).write([media, END])
    deliver(log, "old")
    release = blobs.hold([sha256(media)])
    retire(desk, blobs, "old")
    assert blobs.has(sha256(media), 200)
    again = Writer(log, run_spec("new", "t"))
    again.write([media])
    release()
    list(log.purge(blobs.remove))
    assert blobs.has(sha256(media), 200)  # another run names it now
    again.write([END])
    deliver(log, "new")
    retire(desk, blobs, "new")
    assert not blobs.has(sha256(media), 200)


def test_the_disk_is_smaller_afterwards_and_appends_come_in_between(desk: Desk, blobs: BlobStore) -> None:
    log = desk.log
    old = Writer(log, run_spec("old", "t"))
    chance = random.Random(1)
    noise = [Metric("loss", chance.random(), step, T0 + chance.random()) for step in range(400_000)]
    old.write([*noise, END], cut=8000)
    writer = Writer(log, run_spec("new", "t"))
    deliver(log, "old", stamps={key: 1_700_000_000_000 + key for key in range(100_000)})
    log.close()
    desk.log = log = SqliteLog(log_path(desk.home))
    before = log_path(desk.home).stat().st_size
    assert before > 8_000_000
    writer.log = log
    assert log.retire("old")
    steps = 0
    for _ in log.purge(blobs.remove):
        steps += 1
        writer.write(points(3, start=3 * steps))
    for _ in log.shrink():
        steps += 1
        writer.write(points(3, start=3 * steps))
    assert steps > 10
    until(lambda: log_path(desk.home).stat().st_size < before / 10, 20.0, "the file is cut")
    assert log.size() < before / 10
    assert len([record for *_, record in drained(log, "new", "mlflow") if isinstance(record, Metric)]) == 3 * steps


# -- kills


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A home: `old` may go; `undelivered` and `young` may not. They share content."""
    home = tmp_path / "prepared"
    desk = Desk(home)
    media = [picture(desk, f"content {number}") for number in range(6)]
    Writer(desk.log, run_spec("old", "t")).write([*points(50), *media[:5], END], cut=5)
    Writer(desk.log, run_spec("undelivered", "t")).write([*points(30), media[0], media[5], END], cut=5)
    Writer(desk.log, run_spec("young", "t")).write([*points(30), media[1]], cut=5)
    for name in ("old", "young"):
        deliver(desk.log, name, dead=1, stamps=dict.fromkeys(range(20), KEPT))
    desk.log.close()
    return home


def check(home: Path) -> bool:
    """Nothing undelivered is gone, no batch names what is not there. Whether all of what may go is gone."""
    log = SqliteLog(log_path(home))
    try:
        cursor(log, "old")
        chunk = log.read("undelivered", "mlflow", 10**6, 10**9)
        assert chunk is not None
        assert chunk.points == 32
        assert log.rewind("young", "mlflow") == 31
        with closing(sqlite3.connect(log_path(home))) as db:
            for (payload,) in db.execute("SELECT payload FROM batches"):
                for name, size in codec.blobs(pb.Batch.FromString(payload)):
                    assert blob_path(blobs_path(home), name).stat().st_size == size
            left = db.execute(
                "SELECT (SELECT count(*) FROM batches WHERE run = 1) + (SELECT count(*) FROM blobs WHERE run = 1)"
                " + (SELECT count(*) FROM stamps WHERE cursor = 1) + (SELECT count(*) FROM runs WHERE purged_lsn < retired_lsn)"
            ).fetchone()[0]
        files = [path for path in blobs_path(home).rglob("*") if path.is_file()]
        assert len(files) >= 3
        return left == 0 and len(files) == 3
    finally:
        log.close()


@pytest.mark.faults
def test_a_kill_between_any_two_steps(prepared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.retiring"]
    ended, moment = None, 0
    while ended != 0:
        home = tmp_path / f"killed-{moment}"
        shutil.copytree(prepared, home)
        ended = subprocess.run([*command, str(home), "old", str(moment)], timeout=60 * BUSY, check=False).returncode
        assert ended in (0, -signal.SIGKILL)
        check(home)
        # The next one goes on, and comes to the end.
        done = subprocess.run([*command, str(home), "old", "-1"], timeout=60 * BUSY, check=False)
        assert done.returncode == 0
        assert check(home)
        shutil.rmtree(home)
        moment += 1
    assert moment > 15


# -- logs of the first version

VERSION_1 = (Path(__file__).parent / "version_1.sql").read_text()


def of_version_1(home: Path, runs: int = 1) -> None:
    path = log_path(home)
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.executescript(VERSION_1)


def test_an_older_log_learns_which_content_its_batches_name(tmp_path: Path) -> None:
    home = tmp_path / "home"
    of_version_1(home)
    desk = Desk(home)
    blobs = BlobStore(blobs_path(home))
    shared = picture(desk, "shared")
    # As the first version stored it: the batch alone.
    (run, stream) = (Writer(desk.log, run_spec(name, "t")) for name in ("a", "b"))
    for writer in (run, stream):
        writer.write([*points(10), shared, END])
        deliver(desk.log, writer.run.run_id)
    with closing(sqlite3.connect(log_path(home))) as db, db:
        db.execute("DELETE FROM blobs")
        db.execute("INSERT INTO unindexed SELECT max(lsn) FROM batches")
    retire(desk, blobs, "a")
    assert blobs.has(sha256(shared), shared.content.size)  # type: ignore[union-attr]
    assert rows(home, "unindexed") == 0
    retire(desk, blobs, "b")
    assert not blobs.has(sha256(shared), shared.content.size)  # type: ignore[union-attr]
    desk.log.close()


def test_letters_of_an_older_log_keep_their_ids(tmp_path: Path) -> None:
    home = tmp_path / "home"
    of_version_1(home)
    with closing(sqlite3.connect(log_path(home))) as db:
        before = db.execute("SELECT letter, lsn, seq, name, error, point FROM dead_letters").fetchall()
    log = SqliteLog(log_path(home))
    assert [(d.letter, d.lsn, d.seq, d.name, d.error, d.point) for d in log.dead_letters()] == before
    assert before
    assert cursor(log, "of-version").dead == 1
    assert log.redrive([before[0][0]]) == (1, 0)
    log.close()


@pytest.mark.faults
def test_a_kill_while_an_older_log_is_brought_up_to_date(tmp_path: Path) -> None:
    """It is of one version or the other, whole."""
    program = (
        "import os, signal, sys; from pathlib import Path; from tracelet_collector.log import schema, sqlite\n"
        "left = [int(sys.argv[2])]\n"
        "class Statements(tuple):\n"
        "    def __iter__(self):\n"
        "        for each in tuple.__iter__(self):\n"
        "            if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "            left[0] -= 1\n"
        "            yield each\n"
        "        if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "schema._FROM_1 = Statements(schema._FROM_1)\n"
        "sqlite.SqliteLog(Path(sys.argv[1])).close()"
    )
    ended, at = None, 0
    while ended != 0:
        home = tmp_path / f"killed-{at}"
        of_version_1(home)
        command = [sys.executable, "-c", program, str(log_path(home)), str(at)]
        ended = subprocess.run(command, timeout=60 * BUSY, check=False).returncode
        assert ended in (0, -signal.SIGKILL)
        with closing(sqlite3.connect(log_path(home))) as db:
            assert db.execute("PRAGMA user_version").fetchone()[0] == (SCHEMA_VERSION if ended == 0 else 1)
        log = SqliteLog(log_path(home))
        assert cursor(log, "of-version").lag_points == 5
        log.close()
        at += 1
    assert at > 10


def test_an_older_log_is_read_as_it_is(tmp_path: Path) -> None:
    from tracelet_collector.letters import read_offline as letters
    from tracelet_collector.status import read_offline

    home = tmp_path / "home"
    of_version_1(home)
    raw = log_path(home).read_bytes()
    (run,) = read_offline(home).runs
    assert (run.durable, run.retired, run.backends[0].dead) == (14, False, 1)
    reply = letters(home, wire.DeadLettersRequest())
    assert (reply.total, [letter.id for letter in reply.letters]) == (1, [1])
    assert log_path(home).read_bytes() == raw


def test_readers_see_a_run_whole_or_gone(desk: Desk, blobs: BlobStore) -> None:
    """Whoever asks while a run is retired finds its account right."""
    log = desk.log
    for name in ("a", "b"):
        Writer(log, run_spec(name, "t")).write([*points(3000), END], cut=10)
        deliver(log, name, dead=5)
    stop = threading.Event()
    trouble: list[BaseException] = []

    def look() -> None:
        try:
            while not stop.is_set():
                for name in ("a", "b"):
                    cursor(log, name)
                    assert log.read(name, "mlflow", 10, 10**6) is None
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for name in ("a", "b"):
        retire(desk, blobs, name)
    stop.set()
    thread.join()
    assert not trouble
    assert os.listdir(desk.home / "log")
