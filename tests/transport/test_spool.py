"""A point is in the spool when the call returns, whoever calls and however the process ends."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.spool_writers import on_disk, writer
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolPoint, SpoolVoid
from tracelet.spoolfile.slots import SEGMENT_SIZE, SLOTS_PER_SEGMENT
from tracelet.transport import spool as spool_module
from tracelet.transport.spool import SpoolWriter


def drain(spool: SpoolWriter, limit: int = 1000) -> list[SpoolItem]:
    """Everything that can be taken now."""
    taken: list[SpoolItem] = []
    while items := spool.take(limit):
        taken += items
    return taken


def points(items: list[SpoolItem]) -> list[SpoolPoint]:
    return [item for item in items if isinstance(item, SpoolPoint)]


def test_points_and_blobs_come_back_exactly(home: Path) -> None:
    spool = writer(home)
    values = [0.1, -0.0, float("inf"), float("-inf"), float("nan"), 5e-324, 1.7976931348623157e308]
    for step, value in enumerate(values):
        spool.put(7, step - 3, value, 1e9 + step)
    spool.put(7, 2**63 - 1, 1.0, 0.0)
    spool.put(7, -(2**63), 1.0, 0.0)
    long = {"text": "ä" * 5000}
    spool.put_blob(BlobKind.PARAMS, long)
    for items in (drain(spool), on_disk(spool)):
        assert [struct.pack("<d", p.value) for p in points(items)[: len(values)]] == [
            struct.pack("<d", v) for v in values
        ]
        assert [p.step for p in points(items)] == [*range(-3, 4), 2**63 - 1, -(2**63)]
        assert [p.seq for p in points(items)] == list(range(9))
        blobs = [item for item in items if isinstance(item, SpoolBlob)]
        assert [(b.kind, b.payload.decode()) for b in blobs] == [(BlobKind.PARAMS, '{"text":"' + "ä" * 5000 + '"}')]


def test_a_record_larger_than_a_spool_can_hold_is_an_error(home: Path) -> None:
    with pytest.raises(ValueError, match="larger"):
        writer(home).put_blob(BlobKind.PARAMS, {"text": "x" * 2_000_000})


def test_eight_threads_lose_nothing_and_keep_their_order(home: Path) -> None:
    spool = writer(home)
    each = SLOTS_PER_SEGMENT // 6  # more than a segment in all

    def write(tag: int) -> None:
        for step in range(each):
            spool.put(tag, step, float(step), 0.0)
            if step % 1000 == 0:
                spool.put_blob(BlobKind.TAGS, {"values": {"thread": str(tag)}, "wall_time": 0.0})

    threads = [threading.Thread(target=write, args=(tag,)) for tag in range(8)]
    taken: list[SpoolItem] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += spool.take(1000)
    taken += drain(spool)
    assert [item.seq for item in taken] == list(range(len(taken)))
    for tag in range(8):
        assert [p.step for p in points(taken) if p.tag == tag] == list(range(each))
    assert sum(isinstance(item, SpoolBlob) for item in taken) == 8 * len(range(0, each, 1000))
    assert on_disk(spool) == taken


def test_segments_go_when_they_are_durable_elsewhere(home: Path) -> None:
    spool = writer(home)
    for step in range(SLOTS_PER_SEGMENT + 10):
        spool.put(1, step, 0.0, 0.0)
    drain(spool)
    assert len(spool.directory.segments()) == 2
    spool.release(SLOTS_PER_SEGMENT + 5)
    assert [number for number, _ in spool.directory.segments()] == [1]
    assert spool.rewind(SLOTS_PER_SEGMENT + 2) == SLOTS_PER_SEGMENT + 2
    assert [p.step for p in points(drain(spool))] == list(range(SLOTS_PER_SEGMENT + 2, SLOTS_PER_SEGMENT + 10))
    assert spool.rewind(3) == SLOTS_PER_SEGMENT, "what was released cannot be taken again, and that is said"


def test_a_blob_that_was_cut_in_two_survives_a_rewind(home: Path) -> None:
    spool = writer(home)
    spool.put_blob(BlobKind.TAGS, {"values": {"a": "x" * 100}, "wall_time": 0.0})
    taken = drain(spool)
    spool.rewind(3)  # between its parts and its head
    assert [i for i in drain(spool) if isinstance(i, SpoolBlob)] == [i for i in taken if isinstance(i, SpoolBlob)]


# -- claimed and not committed


class Interleaved:
    """`pack_into` with something done before or after one store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Any = None, after: Any = None) -> None:
        self.original = spool_module._pack_into
        self.before, self.after = before, after
        monkeypatch.setattr(spool_module, "_pack_into", self)

    def __call__(self, *args: Any) -> None:
        before, self.before = self.before, None
        if before:
            before()
        self.original(*args)
        after, self.after = self.after, None
        if after:
            after()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_CONTEST_AFTER", 0.0)


@pytest.mark.usefixtures("impatient")
def test_an_exception_in_the_middle_costs_nobody_else_anything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = writer(home)
    spool.put(1, 0, 0.0, 0.0)

    def interrupt() -> None:
        raise KeyboardInterrupt

    Interleaved(monkeypatch, before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        spool.put(1, 1, 1.0, 0.0)
    spool.put(1, 2, 2.0, 0.0)
    taken = drain(spool)
    assert [type(item) for item in taken] == [SpoolPoint, SpoolVoid, SpoolPoint]
    assert on_disk(spool) == taken


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_that_comes_late_is_taken_exactly_once(home: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The reader gives up on a slot just before, or just after, the writer commits it."""
    spool = writer(home)
    taken: list[SpoolItem] = []
    Interleaved(monkeypatch, **{when: lambda: taken.extend(spool.take(10))})
    spool.put(1, 5, 5.0, 0.0)
    taken += drain(spool)
    assert [p.step for p in points(taken)] == [5]
    assert [p.step for p in points(on_disk(spool))] == [5]
    spool.rewind(0)
    assert [p.step for p in points(drain(spool))] == [5]


@pytest.mark.usefixtures("impatient")
def test_a_verdict_falls_once_between_both_sides(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader contests while the writer has not committed, and the writer commits before the verdict."""
    spool = writer(home)
    taken: list[SpoolItem] = []
    committed = spool._committed

    def slow(position: int) -> bool:
        seen = committed(position)
        # Between the look and the verdict the writer's thread goes on, to the end of its call.
        release.set()
        assert finished.wait(60)
        return seen

    release, finished = threading.Event(), threading.Event()

    def hold() -> None:
        reader = threading.Thread(target=lambda: taken.extend(spool.take(10)))
        reader.start()
        assert release.wait(60)

    monkeypatch.setattr(spool, "_committed", slow)
    Interleaved(monkeypatch, before=hold)
    spool.put(1, 5, 5.0, 0.0)
    finished.set()
    monkeypatch.setattr(spool, "_committed", committed)
    until(lambda: taken.extend(drain(spool)) or points(taken), 5)
    assert [p.step for p in points(taken)] == [5]
    assert [p.step for p in points(on_disk(spool))] == [5]


def test_a_signal_handler_that_logs_in_the_middle(home: Path) -> None:
    spool = writer(home)
    numbers = count()
    inside: list[int] = []

    def handler(*_: object) -> None:  # a handler may interrupt itself
        number = next(numbers)
        spool.put(2, number, 0.0, 0.0)
        spool.put_blob(BlobKind.TAGS, {"values": {"inside": str(number)}, "wall_time": 0.0})
        inside.append(number)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        outside = 0
        while len(inside) < 200:
            spool.put(1, outside, 0.0, 0.0)
            outside += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    taken = drain(spool)
    assert [p.step for p in points(taken) if p.tag == 1] == list(range(outside))
    assert sorted(p.step for p in points(taken) if p.tag == 2) == sorted(inside)
    assert sum(isinstance(item, SpoolBlob) for item in taken) == len(inside)


# -- kill and fork

_TRAINER = """
import mmap, os, struct, sys, time
from pathlib import Path
from tests.support.spool_writers import writer
spool = writer(Path(sys.argv[1]))
said = os.open(sys.argv[2], os.O_RDWR)
returned = memoryview(mmap.mmap(said, 8)).cast("q")
print(spool.directory.path, flush=True)
step = 0
while True:
    spool.put(1, step, float(step), 0.0)
    step += 1
    returned[0] = step  # the call has returned. One store: pack_into would first put a zero there, and a kill may come then
"""


def kill_while_writing(home: Path, seed: int) -> None:
    said = home / f"returned-{seed}"
    said.write_bytes(bytes(8))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _TRAINER, str(home), str(said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as trainer:
        assert trainer.stdout is not None
        path = Path(trainer.stdout.readline().strip())
        enough = random.Random(seed).randint(1, 200_000)
        with said.open("r+b") as file, mmap.mmap(file.fileno(), 8) as returned:
            until(lambda: struct.unpack_from("<q", returned)[0] >= enough, 60)
            trainer.kill()
            trainer.wait(60)
            count = struct.unpack_from("<q", returned)[0]
    steps = [p.step for p in points(on_disk(path))]
    assert steps[:count] == list(range(count)), "a point whose call had returned is missing"
    assert len(steps) - count in (0, 1), "the call that was under way may or may not be there"


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_loses_no_point_whose_call_returned(home: Path, seed: int) -> None:
    kill_while_writing(home, seed)


@pytest.mark.torture
def test_torture_kill_9(home: Path, torture_seed: int) -> None:
    """A writer of a spool is killed: 50 kills."""
    for seed in range(torture_seed, torture_seed + 50):
        kill_while_writing(home, seed)


def test_a_lock_says_whether_the_writer_lives(home: Path) -> None:
    root = Path(__file__).parents[2]
    said = home / "returned"
    said.write_bytes(bytes(8))
    command = [sys.executable, "-c", _TRAINER, str(home), str(said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as trainer:
        assert trainer.stdout is not None
        directory = writer(home).directory.__class__(Path(trainer.stdout.readline().strip()))
        assert directory.lock_if_dead() is None
        trainer.kill()
        trainer.wait(60)
    lock = directory.lock_if_dead()
    assert lock is not None
    os.close(lock)


# -- no room


def test_at_the_cap_the_newest_points_are_dropped_counted_and_said(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spool = writer(home, cap=2 * SEGMENT_SIZE)
    fits = 2 * SLOTS_PER_SEGMENT
    for step in range(fits + 500):
        spool.put(1, step, 0.0, 0.0)
    assert spool.dropped == 500
    assert len(points(drain(spool))) == fits
    assert capfd.readouterr().err.count("dropped") == 1, "one line"
    spool.release(fits)
    spool.prepare()
    spool.put(1, 99, 0.0, 0.0)
    until(lambda: spool.taken >= spool.claimed or (spool.take(10) and None), 5)
    rest = on_disk(spool)
    gaps = [item for item in rest if isinstance(item, SpoolBlob) and item.kind is BlobKind.GAP]
    assert [b'"dropped":500' in gap.payload for gap in gaps] == [True]
    assert [p.step for p in points(rest) if p.seq >= fits] == [99]


@pytest.mark.faults
def test_a_full_disk_neither_kills_nor_stops(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """8 MiB of disk: one segment fits, then RAM takes over up to its bound, then points are dropped and counted."""
    spool = writer(small_disk, cap=1 << 30)
    total = 7 * SLOTS_PER_SEGMENT
    for step in range(total):
        spool.put(1, step, float(step), 0.0)
    taken = points(drain(spool))
    assert len(taken) + spool.dropped == total
    assert len(taken) >= 5 * SLOTS_PER_SEGMENT, "one segment on disk, four in memory"
    assert [p.step for p in taken] == list(range(len(taken)))
    said = capfd.readouterr().err
    assert "disk" in said
    assert "dropped" in said
    assert said.count("\n") == 2
