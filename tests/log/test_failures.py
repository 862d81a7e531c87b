"""The log on a disk that fails: what was acked is there, and nothing is acked that a power cut could take away."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tracelet_collector.log.base import Append, LogFailed, Progress
from tracelet_collector.log.room import Room
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import batch, drained, opening, positions, run_spec, writer_spec
from tests.support.disk import Call, Disk, failing_fsyncs, strace_or_skip, traced
from tests.support.log_writer import EACH, RUN
from tests.support.processes import until
from tracelet.proto.v1 import records_pb2 as pb

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]


def writer(db: Path, batches: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.log_writer", str(db), str(batches), *more]


def acked(said: str) -> int:
    return max((int(number) for number in re.findall(r"ACK (\d+)", said)), default=0)


def stored(db: Path) -> list[int]:
    """Positions of the points in a log that was found like this; each must be whole."""
    log = SqliteLog(db)
    try:
        return positions(log, RUN, "mlflow")
    finally:
        log.close()


def fill(file: int) -> None:
    try:
        while True:
            os.write(file, bytes(64 * 1024))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_power_cut_after_failing_fsyncs_takes_nothing_that_was_acked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(ROOT)
    luck = random.Random(seed)
    db = tmp_path / "log" / "tracelet.db"
    first = luck.randint(20, 40)  # the first ones make the log
    # SQLite's own checkpoints are rare at this size: the failures hit commits and the way back after them.
    said, calls = traced(writer(db, 40), tmp_path / "trace", failing_fsyncs(first, first + luck.randint(0, 4)))
    assert "FAILED" in said
    assert acked(said) == 40 * EACH  # it went on by itself

    assert_acks_survive(db, calls, tmp_path, luck)


@pytest.mark.parametrize("seed", [5, 6])
def test_a_successor_does_not_take_the_page_cache_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(ROOT)
    luck = random.Random(seed)
    db = tmp_path / "log" / "tracelet.db"
    said, calls = traced(succession(db, "-m tests.support.log_writer"), tmp_path / "trace", failing_fsyncs(25, 25))
    assert "FAILED" in said
    assert acked(said) == 40 * EACH
    assert_acks_survive(db, calls, tmp_path, luck)


def test_the_power_cut_notices_an_ack_that_came_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: it does when a log that is opened is not secured first."""
    monkeypatch.chdir(ROOT)
    db = tmp_path / "log" / "tracelet.db"
    careless = tmp_path / "careless.py"
    careless.write_text(
        "import sys; sys.path.insert(0, '.')\n"
        "import tracelet_collector.log.handle as handle, tests.support.log_writer as writer\n"
        "handle._write_again = lambda path: None\n"
        "writer.main(*writer.arguments())\n"
    )
    _, calls = traced(succession(db, str(careless)), tmp_path / "trace", failing_fsyncs(25, 25))
    with pytest.raises(AssertionError, match="acked"):
        assert_acks_survive(db, calls, tmp_path, random.Random(5))


def succession(db: Path, program: str) -> list[str]:
    """A process that ends at its first failure, then one that finds what it left."""
    return ["/bin/sh", "-c", f"{sys.executable} {program} {db} 40 frail; {sys.executable} {program} {db} 40"]


def assert_acks_survive(db: Path, calls: list[Call], folder: Path, luck: random.Random) -> None:
    """Cut the power at some acks: whatever becomes of what was not synced, the log has what was acked."""
    acks = [call for call in calls if call.name == "write" and call.data.startswith(b"ACK")]
    for number, ack in enumerate([*luck.sample(acks, 12), acks[-1]]):
        for lucky in (None, luck):
            image = folder / f"image-{number}-{lucky is None}"
            image.mkdir()
            Disk(calls, lucky).crash(ack.at, [f"{db}", f"{db}-wal"], image)
            there = stored(image / "tracelet.db")
            assert there == list(range(1, len(there) + 1))
            assert len(there) + 1 >= acked(ack.data.decode()), "less than was acked"


def test_while_every_fsync_fails_nothing_is_acked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    db = tmp_path / "log" / "tracelet.db"
    strace = [strace_or_skip(), "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", *failing_fsyncs(20, "")]
    done = subprocess.run([*strace, *writer(db, 50)], capture_output=True, text=True, timeout=240, check=False)
    assert "it never went on" in done.stderr
    last_ack, first_failure = done.stdout.rindex("ACK"), done.stdout.index("FAILED")
    assert last_ack < first_failure
    there = stored(db)  # a healthy disk again: the next process goes on where the acks ended, or a little later
    assert there == list(range(1, len(there) + 1))
    assert there[-1] + 1 >= acked(done.stdout) > 0


def test_files_that_may_not_grow_are_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    db = tmp_path / "log" / "tracelet.db"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))

    done = subprocess.run(
        writer(db, 120, "grow"), capture_output=True, text=True, timeout=240, check=False, preexec_fn=limited
    )
    assert done.stdout.count("FAILED") >= 3, done.stderr
    assert acked(done.stdout) == 120 * EACH
    assert stored(db) == list(range(1, 120 * EACH))


def test_a_full_disk_refuses_records_but_moves_cursors_and_goes_on_by_itself(small_disk: Path) -> None:
    mib = 2**20
    ballast = small_disk / "ballast"
    log = SqliteLog(small_disk / "tracelet.db", Room(ballast, reserve=mib, watermark=mib))
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    assert ballast.stat().st_blocks * 512 >= mib
    log.append([Append(stream, opening(1000).SerializeToString())])

    hog = os.open(small_disk / "hog", os.O_WRONLY | os.O_CREAT)
    fill(hog)
    more = [Append(stream, batch(1000, 1000).SerializeToString())]
    for _ in range(3):
        with pytest.raises(LogFailed, match="full"):
            log.append(more)
    assert not log.healthy

    assert ballast.exists()
    chunk = log.read(spec.run_id, "mlflow", 10**6, 10**9)
    assert chunk is not None
    big = {"state": "x" * 200_000}
    log.commit(spec.run_id, "mlflow", Progress(chunk.until, delivered=chunk.points, state=repr(big)))
    assert log.cursors()[0].settled
    assert not ballast.exists()  # that is what it was for

    os.ftruncate(hog, 0)
    os.close(hog)
    assert log.append(more) == [2000]
    assert log.healthy
    assert ballast.stat().st_blocks * 512 >= mib
    log.close()


def test_a_disk_that_fills_up_in_the_middle_of_a_commit_loses_nothing(small_disk: Path) -> None:
    log = SqliteLog(small_disk / "tracelet.db", Room(small_disk / "ballast", reserve=2**20, watermark=0))
    spec = run_spec("mlflow")
    stream = log.open_stream(spec, writer_spec()).stream
    filler = pb.Params(values={"text": pb.Value(text="x" * 50_000)})

    def one(seq: int) -> list[Append]:
        made = batch(seq, 1, events=[pb.Event(params=filler)])
        return [Append(stream, made.SerializeToString())]

    acked = 0
    try:
        while True:
            (outcome,) = log.append(one(acked))
            acked += 1
            assert outcome == acked
    except LogFailed as error:
        if "full" not in str(error):
            raise
    assert acked > 50
    for _ in range(3):  # the reserve may make room for one more, or not
        with suppress(LogFailed):
            (outcome,) = log.append(one(acked))
            acked += 1
            assert outcome == acked
    copy = small_disk.parent / "copy"
    copy.mkdir()
    for path in small_disk.glob("tracelet.db*"):
        shutil.copy(path, copy / path.name)
    log.close()
    left = SqliteLog(copy / "tracelet.db")
    assert left.streams(spec.run_id)[0].next_seq == acked
    assert sum(1 for _ in drained(left, spec.run_id, "mlflow")) == acked
    left.close()


def test_the_reserve_is_left_out_where_there_is_no_room_for_it(small_disk: Path) -> None:
    room = Room(small_disk / "ballast", reserve=64 * 2**20, watermark=0)
    assert not (small_disk / "ballast").exists()
    assert room.enough()
    assert not room.release()
    assert [path.name for path in small_disk.iterdir()] == []


def test_a_log_heals_while_it_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the write permission away and gives it back: an error that is neither full nor an fsync."""
    log = SqliteLog(tmp_path / "tracelet.db")
    stream = log.open_stream(run_spec("mlflow", run_id=RUN), writer_spec()).stream
    log.append([Append(stream, opening(10).SerializeToString())])
    with log._handle.lock:
        db = log._handle._open()
        db.execute("PRAGMA query_only = ON")
    with pytest.raises(LogFailed):
        log.append([Append(stream, batch(10, 10).SerializeToString())])
    assert until(lambda: log.append([Append(stream, batch(10, 10).SerializeToString())])) == [20]
    log.close()
    assert stored(tmp_path / "tracelet.db") == list(range(1, 20))
