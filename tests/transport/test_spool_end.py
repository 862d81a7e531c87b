"""The end of a spool: closed once, removed or left for a collector, and what comes too late."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.spool_points import streams
from tests.support.spool_writers import on_disk, writer
from tracelet.spoolfile import BlobKind, SpoolDirectory, SpoolLost, SpoolReader
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT
from tracelet.transport.spool import SpoolWriter

TAG = {"id": 1, "name": "a", "tag": "a", "log_dir": "", "type": "scalar", "type_inferred": True, "step_implied": False}
END = {"status": "finished", "reason": "", "wall_time": 0.0}


def opened(home: Path) -> SpoolWriter:
    spool = writer(home)
    spool.put_blob(BlobKind.TAG_DEF, TAG)
    spool.put(1, 1, 1.0, 1.0)
    return spool


def test_what_is_durable_elsewhere_is_removed(home: Path) -> None:
    spool = opened(home)
    assert spool.close(remove=True) == 0
    assert list((home / "spool").rglob("*")) == []


def test_the_first_close_counts(home: Path) -> None:
    """One that left it for a collector is not taken back: that may be reading."""
    spool = opened(home)
    spool.close(remove=False)
    lock = spool.directory.lock_if_dead()
    assert lock is not None
    os.close(lock)
    spool.close(remove=True)
    spool.close(remove=True)
    assert spool.directory.segments()


def test_something_in_the_folder_that_cannot_be_removed(home: Path) -> None:
    spool = opened(home)
    (spool.directory.path / "folder").mkdir()
    spool.close(remove=True)
    assert (spool.directory.path / "folder").exists()


@pytest.mark.parametrize("remove", [True, False])
def test_calls_that_come_too_late_are_silent(home: Path, capfd: pytest.CaptureFixture[str], remove: bool) -> None:
    """Those of threads that were on their way when the run was stopped; up to a new segment."""
    spool = opened(home)
    spool.close(remove)
    before = sorted(home.rglob("*"))
    assert not spool.put(1, 2, 1.0, 1.0)
    assert not spool.put_blob(BlobKind.TAG_DEF, TAG)
    spool.prepare()
    for _ in range(SLOTS_PER_SEGMENT + 1):
        spool._refusing = False  # it had looked at that before
        spool.put(1, 3, 1.0, 1.0)
    assert sorted(home.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_after_the_seal_nothing_comes_but_what_was_there_stays(home: Path) -> None:
    spool = opened(home)
    assert spool.put_last(BlobKind.RUN_END, END)
    spool.seal()
    assert not spool.put(1, 2, 1.0, 1.0)
    spool.prepare()
    assert not spool.put(1, 2, 1.0, 1.0)
    spool.close(remove=False)
    (records,) = streams(home)
    assert [type(record).__name__ for record in records] == ["Metric", "RunEnd"]


@pytest.mark.faults
def test_records_that_were_in_memory_alone_and_found_no_room_count_as_lost(small_disk: Path) -> None:
    """8 MiB of disk: one segment of it; the others are memory, and at the end there is still no room."""
    spool = writer(small_disk, cap=1 << 30)
    for step in range(3 * SLOTS_PER_SEGMENT):
        spool.put(1, step, float(step), 0.0)
    taken = 0
    while items := spool.take(1000):
        taken += len(items)
    assert taken == 3 * SLOTS_PER_SEGMENT
    durable = SLOTS_PER_SEGMENT + 1000  # as far as a collector had it
    lost = spool.close(remove=False, durable=durable)
    assert lost == 2 * SLOTS_PER_SEGMENT - 1000
    directory = SpoolDirectory(spool.directory.path)
    epoch = directory.info().epoch
    assert [list(items) for items in SpoolReader(directory, epoch).read(durable)] == [[SpoolLost(durable, lost)]]
    found = [item for items in SpoolReader(directory, epoch).read() for item in items]
    assert found[-1] == SpoolLost(SLOTS_PER_SEGMENT, 2 * SLOTS_PER_SEGMENT)
    assert len(found) == SLOTS_PER_SEGMENT + 1


def test_a_spool_that_lost_nothing_says_nothing(home: Path) -> None:
    spool = opened(home)
    assert spool.close(remove=False) == 0
    assert not any(isinstance(item, SpoolLost) for item in on_disk(spool))
