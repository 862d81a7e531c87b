"""Spools with blobs: content that no writer uploaded any more comes from the spool, or its record is counted as dropped."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from tracelet_collector.blobs import blob_path

from tests.support.batches import run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tests.support.uploading import content, digest
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind


@pytest.fixture
def home(shared: CollectorProcess) -> Path:
    return shared.home


def put(spool: SlotWriter, data: bytes, *, file: bool = True) -> None:
    """An artifact whose content is a blob of the spool."""
    if file:
        spool.directory.blobs.mkdir(exist_ok=True)
        (spool.directory.blobs / digest(data)).write_bytes(data)
    said = {"path": f"files/{digest(data)[:8]}", "wall_time": 1.7e9, "media_type": "", "blob": digest(data)}
    spool.blob(BlobKind.ARTIFACT, said | {"size": len(data)})


def image(spool: SlotWriter, data: bytes) -> None:
    """An image whose content is in its record."""
    said = {"tag": 1, "step": 3, "wall_time": 1.7e9, "media_type": "image/png", "inline": b64encode(data).decode()}
    spool.blob(BlobKind.MEDIA, said)


def state_of(shared: CollectorProcess, run: wire.RunSpec) -> wire.RunState:
    (state,) = shared.status(run.run_id).runs
    return state


def adopted(spool: SlotWriter) -> None:
    until(lambda: not spool.path.exists(), 30, f"{spool.path} is adopted")


def kept(home: Path, data: bytes) -> bool:
    path = blob_path(home / "log" / "blobs", digest(data))
    return path.exists() and path.read_bytes() == data


def test_the_blobs_of_a_dead_writer_are_in_the_store(home: Path, shared: CollectorProcess) -> None:
    run, large, small = run_spec(), content(3_000_000, seed=1), content(20_000, seed=2)
    spool = SlotWriter(home, run, writer_spec(epoch=time.time_ns()))
    spool.define()
    put(spool, large)
    spool.points(10)
    image(spool, b"not a real png")
    put(spool, small)
    put(spool, large)  # the same content again
    (spool.directory.blobs / "7-abcd.draft").write_bytes(b"what nobody named")
    spool.end()
    spool.die()
    adopted(spool)
    state = state_of(shared, run)
    assert (state.status, state.durable, state.dropped) == (pb.RUN_STATUS_FINISHED, 14, 0)
    assert kept(home, large)
    assert kept(home, small)
    assert not list((home / "log" / "blobs" / "partial").iterdir())
    assert not [line for line in shared.journal() if line["level"] == "error" and str(spool.path) in str(line)]


@pytest.mark.parametrize("damage", ["gone", "short", "other", "no folder"])
def test_a_blob_that_is_gone_costs_its_record_and_nothing_else(
    home: Path, shared: CollectorProcess, damage: str
) -> None:
    run, good = run_spec(), content(30_000, seed=3)
    bad, worse = content(40_000, seed=10 + len(damage)), content(50_000, seed=4)
    spool = SlotWriter(home, run, writer_spec(epoch=time.time_ns()))
    spool.define()
    spool.points(5)
    put(spool, bad, file=damage != "no folder")
    spool.points(5)
    if damage != "no folder":
        put(spool, good)
        file = spool.directory.blobs / digest(bad)
        file.unlink()
        if damage != "gone":
            file.write_bytes(bad[:-1] if damage == "short" else bytes(len(bad)))
    put(spool, worse, file=False)
    spool.points(5)
    spool.end()
    spool.die()
    adopted(spool)
    state = state_of(shared, run)
    there = 16 if damage != "no folder" else 15
    assert (state.status, state.durable, state.dropped) == (pb.RUN_STATUS_FINISHED, there, 2)
    assert not kept(home, bad)
    said = [line for line in shared.journal() if "lacks content" in str(line) and str(spool.path) in str(line)]
    assert len(said) == 1


def test_a_living_writer_without_a_sender_has_blobs_too(home: Path, shared: CollectorProcess) -> None:
    run, data = run_spec(), content(100_000, seed=5)
    spool = SlotWriter(home, run, writer_spec(owner=False), sends=False)
    spool.define()
    put(spool, data)
    spool.points(3)
    until(lambda: len(shared.status(run.run_id).runs) == 1 and state_of(shared, run).durable == 4)
    assert kept(home, data)
    assert (spool.directory.blobs / digest(data)).read_bytes() == data
    spool.die()
    adopted(spool)
    assert state_of(shared, run).durable == 4


def test_blobs_that_find_no_room_hold_up_no_other_spool(
    serve: Callable[..., CollectorProcess], disk_of_64_mib: Path, tmp_path: Path
) -> None:
    home = disk_of_64_mib / "home"
    collector = serve(at=home)
    elsewhere, data = tmp_path / "elsewhere", content(3_000_000, seed=6)
    elsewhere.mkdir()
    large, small = run_spec(run_id="a-large"), run_spec(run_id="b-small")
    first = SlotWriter(home, large, writer_spec())
    first.define()
    first.directory.blobs.symlink_to(elsewhere)  # on another file system: it has to be copied
    put(first, data)
    first.end()
    filler = disk_of_64_mib / "filler"
    with filler.open("wb") as file:
        disk = os.statvfs(disk_of_64_mib)
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - 28 * 1024 * 1024)
    first.die()
    until(lambda: any("no blobs are taken" in str(line) for line in collector.journal()))
    second = SlotWriter(home, small, writer_spec())
    second.define()
    second.points(3)
    second.end()
    second.die()
    adopted(second)
    assert state_of(collector, small).durable == 3
    assert state_of(collector, large).durable == 0
    filler.unlink()
    until(lambda: state_of(collector, large).durable == 1, 30, "the blob is taken")
    assert kept(home, data)


def test_a_spool_of_a_later_minor_version_is_adopted(home: Path, shared: CollectorProcess) -> None:
    """What its run has beyond what this collector knows is left out; its records are not."""
    run = run_spec("mlflow")
    spool = SlotWriter(home, run, writer_spec())
    path = spool.path / "spool.json"
    said = json.loads(path.read_text())
    said["run"] |= {"mood": "sunny", "of_later": {"a": [1, 2]}, "tags": {"team": "blue"}, "group": "g"}
    said["run"]["backends"][0]["speed"] = "high"
    said["writer"]["hue"] = 3
    path.write_text(json.dumps(said))
    spool.define()
    spool.points(7)
    spool.end()
    spool.die()
    adopted(spool)
    assert state_of(shared, run).durable == 7
