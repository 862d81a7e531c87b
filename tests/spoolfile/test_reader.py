"""A spool is read as far as it can be read, and what cannot is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.spool_writers import on_disk, writer
from tracelet.spoolfile import (
    BlobKind,
    SpoolBlob,
    SpoolDirectory,
    SpoolItem,
    SpoolLost,
    SpoolPoint,
    SpoolReader,
    SpoolVoid,
)
from tracelet.spoolfile.slots import (
    HEADER_SIZE,
    POINT,
    SEGMENT_SIZE,
    SLOT_SIZE,
    SLOTS_PER_SEGMENT,
    SegmentHeader,
    SlotKind,
)
from tracelet.transport.spool import SpoolWriter


def filled(home: Path, points: int) -> SpoolWriter:
    spool = writer(home)
    for step in range(points):
        spool.put(1, step, float(step), 0.0)
    return spool


def segment(spool: SpoolWriter, number: int) -> Path:
    return dict(spool.directory.segments())[number]


def steps(items: list[SpoolItem]) -> list[int]:
    return [item.step for item in items if isinstance(item, SpoolPoint)]


def overwrite(path: Path, at: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)


def test_reading_starts_anywhere(home: Path) -> None:
    spool = filled(home, SLOTS_PER_SEGMENT + 5)
    reader = SpoolReader(spool.directory, spool.info.epoch)
    assert steps([i for items in reader.read(SLOTS_PER_SEGMENT - 2) for i in items]) == list(
        range(SLOTS_PER_SEGMENT - 2, SLOTS_PER_SEGMENT + 5)
    )
    assert list(reader.read(SLOTS_PER_SEGMENT + 5)) == []


def test_a_missing_segment_is_lost_and_the_rest_is_read(home: Path) -> None:
    spool = filled(home, 2 * SLOTS_PER_SEGMENT + 3)
    segment(spool, 1).unlink()
    items = on_disk(spool)
    assert [i for i in items if isinstance(i, SpoolLost)] == [SpoolLost(SLOTS_PER_SEGMENT, SLOTS_PER_SEGMENT)]
    assert steps(items)[-3:] == [2 * SLOTS_PER_SEGMENT + n for n in range(3)]


@pytest.mark.parametrize("cut", [0, 10, HEADER_SIZE, HEADER_SIZE + 5 * SLOT_SIZE, HEADER_SIZE + 5 * SLOT_SIZE + 7])
def test_a_truncated_segment_is_read_to_its_end(home: Path, cut: int) -> None:
    """Before a whole one, what is cut off is lost; at the end of the spool nobody can know of it."""
    whole = max(cut - HEADER_SIZE, 0) // SLOT_SIZE
    spool = filled(home, SLOTS_PER_SEGMENT + 2)
    first = segment(spool, 0)
    first.write_bytes(first.read_bytes()[:cut])
    items = on_disk(spool)
    assert steps(items) == [*range(whole), SLOTS_PER_SEGMENT, SLOTS_PER_SEGMENT + 1]
    assert [i for i in items if isinstance(i, SpoolLost)] == [SpoolLost(whole, SLOTS_PER_SEGMENT - whole)]
    segment(spool, 1).unlink()
    assert steps(on_disk(spool)) == list(range(whole))


@pytest.mark.parametrize(
    "slot",
    [
        POINT.pack(1, 1.0, 1.0, 1, 0, 99, 0),  # kind nobody knows, this epoch's mark put in below
        POINT.pack(1, 1.0, 1.0, 1, 0, SlotKind.POINT, 0),  # another epoch's mark
    ],
)
def test_a_damaged_slot_is_lost_and_its_neighbours_are_read(home: Path, slot: bytes) -> None:
    spool = filled(home, 10)
    mark = SegmentHeader(0, spool.info.epoch).mark
    unknown = slot[-2] == 99
    overwrite(segment(spool, 0), HEADER_SIZE + 4 * SLOT_SIZE, slot[:-1] + bytes([mark if unknown else mark % 255 + 1]))
    items = on_disk(spool)
    assert items[4] == SpoolLost(4, 1)
    assert steps(items) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_damaged_blob_is_lost(home: Path) -> None:
    spool = writer(home)
    spool.put_blob(BlobKind.TAGS, {"values": {"a": "b"}, "wall_time": 0.0})
    spool.put(1, 7, 0.0, 0.0)
    overwrite(segment(spool, 0), HEADER_SIZE + 3, b"\xff")
    items = on_disk(spool)
    assert not any(isinstance(i, SpoolBlob) for i in items)
    assert any(isinstance(i, SpoolLost) for i in items)
    assert steps(items) == [7]


def test_a_damaged_header_does_not_matter(home: Path) -> None:
    spool = filled(home, 3)
    overwrite(segment(spool, 0), 0, bytes(HEADER_SIZE))
    assert steps(on_disk(spool)) == [0, 1, 2]


def test_a_foreign_segment_is_left_alone(home: Path) -> None:
    spool, other = filled(home, 3), filled(home, 5)
    foreign = spool.directory.segment_path(1, "foreign")
    foreign.write_bytes(segment(other, 0).read_bytes())
    reader = SpoolReader(spool.directory, spool.info.epoch)
    assert steps([i for items in reader.read() for i in items]) == [0, 1, 2]
    assert reader.foreign == [foreign]


@pytest.mark.parametrize("name", ["00000000-00000000.seg", "00000000-zzzzzzzz.seg"])
def test_a_segment_that_lost_the_race_hides_nothing(home: Path, name: str) -> None:
    """Two threads made a segment at once, and the process was killed before the loser's file was removed."""
    spool = filled(home, 3)
    empty = SegmentHeader(0, spool.info.epoch).pack() + bytes(SEGMENT_SIZE - HEADER_SIZE)
    (spool.directory.path / name).write_bytes(empty)
    assert steps(on_disk(spool)) == [0, 1, 2]


def test_while_the_writer_lives_an_unfinished_slot_ends_the_reading(home: Path) -> None:
    spool = filled(home, 10)
    overwrite(segment(spool, 0), HEADER_SIZE + 5 * SLOT_SIZE - 1, b"\0")
    alive = SpoolReader(spool.directory, spool.info.epoch, whole=False)
    assert steps([i for items in alive.read() for i in items]) == [0, 1, 2, 3]
    dead = on_disk(spool)
    assert steps(dead) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert dead[4] == SpoolVoid(4)


@pytest.mark.parametrize(
    "said", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "run": 3, "writer": 4}']
)
def test_a_damaged_description_says_so(home: Path, said: str) -> None:
    spool = filled(home, 1)
    (spool.directory.path / "spool.json").write_text(said)
    with pytest.raises(ValueError, match=r"format|damaged|Expecting"):
        spool.directory.info()


def test_the_description_comes_back(home: Path) -> None:
    spool = filled(home, 1)
    assert spool.directory.info() == spool.info
    assert json.loads((spool.directory.path / "spool.json").read_text())["format"] == 1
    assert [s.path for s in SpoolDirectory.under(home)] == [spool.directory.path]
    spool.directory.remove()
    assert list(SpoolDirectory.under(home)) == []
