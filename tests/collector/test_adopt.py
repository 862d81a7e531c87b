"""Spools that nobody sends: those of dead writers, of writers without a sender, and what is damaged, foreign or no spool."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.batches import batch, ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind
from tracelet.spoolfile.slots import HEADER_SIZE, SEGMENT_SIZE, SLOT_SIZE, SLOTS_PER_SEGMENT

DEFINED = 4  # slots of tag 1's definition


def of(collector: CollectorProcess, run: wire.RunSpec) -> wire.RunState | None:
    return next((state for state in collector.status(run.run_id).runs), None)


def adopted(collector: CollectorProcess, spool: SlotWriter) -> None:
    until(lambda: not spool.path.exists(), 30, f"{spool.path} is adopted")


def old(path: Path) -> None:
    """As if it had been made a while ago."""
    os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.fixture
def home(shared: CollectorProcess) -> Path:
    return shared.home


def test_what_a_dead_writer_left_is_in_the_log_and_its_run_is_killed(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec(epoch=time.time_ns()))
    spool.define()
    spool.points(SLOTS_PER_SEGMENT + 500)
    spool.blob(BlobKind.WRITER_SEEN, {"log_dir": "runs/a", "label": "a"})
    assert spool.position > SLOTS_PER_SEGMENT
    before = shared.status(run.run_id)
    assert (len(before.runs), before.pending_spools) == (0, 0)  # it lives, and has a sender
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.status, state.durable, state.dropped) == (pb.RUN_STATUS_KILLED, SLOTS_PER_SEGMENT + 500, 0)
    assert state.labels == {"runs/a": "a"}
    assert abs(state.ended - time.time()) < 3600
    assert shared.kept(run.run_id) == list(range(DEFINED, DEFINED + SLOTS_PER_SEGMENT + 500))
    assert not (home / "spool" / run.run_id).exists()


def test_an_end_that_was_said_stands(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.end("failed")
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.status, state.ended) == (pb.RUN_STATUS_FAILED, 1.8e9)


def test_who_does_not_own_a_run_does_not_end_it(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec(owner=False), sends=False)
    spool.define()
    spool.points(5)
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.status, state.durable) == (pb.RUN_STATUS_RUNNING, 5)


@pytest.mark.parametrize("said", [False, True])
def test_what_was_sent_is_not_taken_again(home: Path, shared: CollectorProcess, said: bool) -> None:
    """The writer had sent a part, perhaps its end, too; its stream is still open when it dies."""
    run, writer = run_spec(), writer_spec(epoch=7)
    spool = SlotWriter(home, run, writer)
    spool.define()
    spool.points(96)
    stream = shared.open(run, writer)
    stream.welcome()
    stream.send(batch(0, 60, events=opening(1).events))
    if said:
        stream.send(ending(60))
    stream.acked_to(60 + said)
    spool.die()
    assert spool.path.exists()
    until(lambda: shared.status(run.run_id).pending_spools == 1)
    shared.hang_up()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert state.status == (pb.RUN_STATUS_FINISHED if said else pb.RUN_STATUS_KILLED)
    ends = [seq for seq in range(1, 100) if not (said and seq == 60)]
    assert shared.kept(run.run_id) == ends


def test_a_living_writer_without_a_sender_is_read_along(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec(owner=False), sends=False)
    spool.define()
    spool.points(100)
    until(lambda: (state := of(shared, run)) is not None and state.durable == 100)
    assert shared.status(run.run_id).pending_spools == 0
    spool.hole()
    spool.points(50)  # behind a position that may still be committed: not yet
    position = spool.position
    spool.spoil(104, bytes(SLOT_SIZE))
    until(lambda: shared.status(run.run_id).pending_spools == 0)
    assert of(shared, run).durable == 100  # type: ignore[union-attr]
    spool.die()
    adopted(shared, spool)
    assert shared.kept(run.run_id) == [seq for seq in range(DEFINED, position) if seq != 104]


def test_reading_along_crosses_segments_and_blobs(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec(owner=False), sends=False)
    spool.define()
    spool.points(SLOTS_PER_SEGMENT - DEFINED - 2)
    spool.blob(BlobKind.PARAMS, {"values": {"lr": 0.1, "text": "x" * 100}, "wall_time": 1.0})
    spool.points(10)
    until(lambda: (state := of(shared, run)) is not None and state.durable == SLOTS_PER_SEGMENT - DEFINED + 8)
    state = of(shared, run)
    assert state is not None
    assert state.dropped == 0
    spool.die()
    adopted(shared, spool)
    assert of(shared, run).durable == SLOTS_PER_SEGMENT - DEFINED + 8  # type: ignore[union-attr]


def test_positions_that_were_never_finished_hold_nothing(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(3)
    spool.hole()
    spool.points(3)
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.durable, state.dropped) == (6, 0)


def test_a_cut_file_loses_what_is_cut_and_no_more(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(2 * SLOTS_PER_SEGMENT)
    os.truncate(spool.segment(1), HEADER_SIZE + 1000 * SLOT_SIZE + 7)
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert state.dropped == SLOTS_PER_SEGMENT - 1000
    assert state.durable == 2 * SLOTS_PER_SEGMENT - state.dropped
    assert state.status == pb.RUN_STATUS_KILLED


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_segment_is_a_gap(home: Path, shared: CollectorProcess, missing: int) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec(), sends=True)
    spool.define()
    spool.points(3 * SLOTS_PER_SEGMENT - DEFINED - 10)
    spool.segment(missing).unlink()
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    # Without the first, the definition is gone, too: numbers without a name are no points.
    lost = 3 * SLOTS_PER_SEGMENT - 10 if missing == 0 else SLOTS_PER_SEGMENT
    assert state.dropped == lost
    assert state.durable + state.dropped == 3 * SLOTS_PER_SEGMENT - 10 - (0 if missing == 0 else DEFINED)


def test_spoiled_slots_are_lost_and_their_neighbours_are_not(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(10)
    for _ in range(3):
        spool.blob(BlobKind.PARAMS, {"values": {"a": 1}, "wall_time": 1.0})
    spool.blob(BlobKind.POINT, {"tag": 1, "step": 2**70, "value": 0.5, "wall_time": 1.0, "metadata": {}})
    spool.points(5)
    spool.spoil(DEFINED + 3, b"\xa5" * SLOT_SIZE)
    spool.spoil(DEFINED + 10, b"\xa5" * 8)  # a part of a blob
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.durable, state.dropped) == (9 + 1 + 5, 2)
    assert (spool.path.parent.parent.parent / "spool-damaged").exists() is False


def test_a_spoiled_definition_loses_its_points_and_no_others(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    second = spool.position
    spool.blob(BlobKind.TAG_DEF, {"id": 2, "name": "other"})
    spool.points(10, tag=1)
    spool.points(7, tag=2)
    spool.blob(BlobKind.POINT, {"tag": 2, "step": 2**70, "value": 0.5, "wall_time": 1.0})
    spool.points(2, tag=1)
    spool.spoil(second, b"\xa5" * 8)
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.durable, state.dropped) == (12, 1 + 7 + 1)


def test_a_spoiled_header_loses_nothing(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(20)
    with spool.segment(0).open("r+b") as file:
        file.write(b"\xa5" * HEADER_SIZE)
    spool.die()
    adopted(shared, spool)
    assert shared.kept(run.run_id) == list(range(DEFINED, DEFINED + 20))


def test_foreign_files_are_put_aside_and_the_spool_is_taken(home: Path, shared: CollectorProcess) -> None:
    run, other = run_spec(), run_spec()
    stranger = SlotWriter(home, other, writer_spec(epoch=4711))
    stranger.define()
    stranger.points(8)
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(20)
    shutil.copy(stranger.segment(0), spool.path / "00000001-theirs.seg")
    (spool.path / "notes.txt").write_text("mine")
    (spool.path / "folder").mkdir()
    spool.die()
    adopted(shared, spool)
    assert shared.kept(run.run_id) == list(range(DEFINED, DEFINED + 20))
    aside = home / "spool-damaged" / f"{run.run_id}-{spool.path.name}"
    assert sorted(path.name for path in aside.iterdir()) == ["00000001-theirs.seg", "folder", "notes.txt"]
    assert (aside / "notes.txt").read_text() == "mine"
    stranger.die()
    adopted(shared, stranger)


@pytest.mark.parametrize(
    "said", ["", "{", "[]", '{"format": 1}', '{"format": 1, "run": {}, "writer": {}, "sends": 1}', "\xff"]
)
def test_a_spool_without_a_readable_name_is_put_aside_whole(home: Path, shared: CollectorProcess, said: str) -> None:
    run, good = run_spec(), run_spec()
    broken = SlotWriter(home, run, writer_spec())
    broken.define()
    broken.points(5)
    (broken.path / "spool.json").write_bytes(said.encode("latin-1"))
    fine = SlotWriter(home, good, writer_spec())
    fine.define()
    fine.points(5)
    broken.die()
    fine.die()
    adopted(shared, broken)
    adopted(shared, fine)
    assert of(shared, good).durable == 5  # type: ignore[union-attr]
    assert of(shared, run) is None
    aside = home / "spool-damaged" / f"{run.run_id}-{broken.path.name}"
    assert (aside / "00000000-test.seg").stat().st_size == SEGMENT_SIZE
    assert any(line.get("kept_in") == str(aside) for line in shared.journal())
    assert shared.status().pending_spools == 0


def test_a_spool_whose_name_is_spoiled_is_known_by_its_folder(home: Path, shared: CollectorProcess) -> None:
    run, writer = run_spec(), writer_spec(epoch=12)
    spool = SlotWriter(home, run, writer)
    spool.define()
    spool.points(20)
    shared.open(run, writer).welcome()
    shared.hang_up()
    (spool.path / "spool.json").write_text("gone")
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.durable, state.status, state.name) == (20, pb.RUN_STATUS_KILLED, "a run")


def test_a_file_that_claims_an_absurd_position_does_not_make_a_gap_of_it(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(20)
    (spool.path / "99999999-x.seg").write_bytes(b"\xa5" * 4096)
    spool.die()
    adopted(shared, spool)
    state = of(shared, run)
    assert state is not None
    assert (state.durable, state.dropped, state.status) == (20, 0, pb.RUN_STATUS_KILLED)
    assert (home / "spool-damaged" / f"{run.run_id}-{spool.path.name}" / "99999999-x.seg").exists()


def test_a_newer_spool_waits_for_a_newer_collector(home: Path, shared: CollectorProcess) -> None:
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.points(1)
    said = json.loads((spool.path / "spool.json").read_text())
    (spool.path / "spool.json").write_text(json.dumps(said | {"format": 99}))
    spool.die()
    until(lambda: any("newer collector" in str(line["message"]) for line in shared.journal()))
    assert spool.path.exists()
    assert shared.status(run.run_id).pending_spools == 1
    shutil.rmtree(spool.path)


def test_folders_without_records_go_when_they_are_old(home: Path, shared: CollectorProcess) -> None:
    made, left = (home / "spool" / run_spec().run_id / f"w-{epoch}" for epoch in (1, 2))
    made.mkdir(parents=True)  # a writer that is just beginning
    left.mkdir(parents=True)
    (left / "lock").touch()
    old(left)
    until(lambda: not left.parent.exists(), what="the old one is removed")
    assert made.exists()
    old(made)
    until(lambda: not made.exists())


def test_a_spool_without_its_lock_is_adopted_when_it_is_old(home: Path, shared: CollectorProcess) -> None:
    """A copy; or the rest of one whose removal was cut short, which must not keep `tracelet wait` waiting for ever."""
    run = run_spec()
    spool = SlotWriter(home, run, writer_spec())
    spool.define()
    spool.points(9)
    spool.die()
    spool_lock = spool.path / "lock"
    spool_lock.unlink(missing_ok=True)
    if spool.path.exists():  # else the collector was faster
        old(spool.path)
    adopted(shared, spool)
    assert of(shared, run).durable == 9  # type: ignore[union-attr]


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_adoption_that_is_killed_again_and_again_takes_everything_once(
    serve: Callable[..., CollectorProcess], tmp_path: Path, seed: int
) -> None:
    kill_while_it_adopts(serve, tmp_path / "home", seed, kills=4)


@pytest.mark.faults
@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_torture_adoption(serve: Callable[..., CollectorProcess], tmp_path: Path, torture_seed: int) -> None:
    """The collector is killed while it adopts the spools of dead writers: 10 homes, 6 kills each."""
    for seed in range(torture_seed, torture_seed + 10):
        kill_while_it_adopts(serve, tmp_path / f"home-{seed}", seed, kills=6)


def kill_while_it_adopts(serve: Callable[..., CollectorProcess], place: Path, seed: int, kills: int) -> None:
    luck = random.Random(seed)
    place.mkdir()
    runs = [run_spec() for _ in range(3)]
    counts = [3 * SLOTS_PER_SEGMENT // 2, 1000, 20_000]
    for run, count in zip(runs, counts, strict=True):
        spool = SlotWriter(place, run, writer_spec())
        spool.define()
        spool.points(count)
        spool.die()
    for _ in range(kills):
        collector = serve(at=place)
        with suppress(AssertionError):  # not yet: in the middle of it
            # Not by rglob: folders go while it looks.
            until(
                lambda: not any("spool.json" in names for *_, names in os.walk(place / "spool")), luck.uniform(0.0, 0.5)
            )
        collector.kill()
    collector = serve(at=place)
    until(lambda: collector.status().pending_spools == 0, 60)
    states = {state.run_id: state for state in collector.status().runs}
    for run, count in zip(runs, counts, strict=True):
        assert states[run.run_id].durable == count
        assert states[run.run_id].status == pb.RUN_STATUS_KILLED
        assert collector.kept(run.run_id) == list(range(DEFINED, DEFINED + count))
    assert not any((place / "spool").rglob("*.seg"))
    assert not (place / "spool-damaged").exists()
    collector.stop()
