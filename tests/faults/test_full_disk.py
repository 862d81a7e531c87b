"""The disk of the home fills up under a training: the trainer lives, nothing is lost, and nobody has to mend anything."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.support.processes import children_with, collector_pid, until
from tests.support.spine import Spine
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT

pytestmark = pytest.mark.faults

STEPS = 2 * SLOTS_PER_SEGMENT + 1000  # more than fits into the segments that are there before the disk is full

SCRIPT = f"""
import mmap, struct, sys, time
from pathlib import Path
import tracelet
file = open(sys.argv[1], "r+b")
returned = mmap.mmap(file.fileno(), 8)
run = tracelet.start_logging(exp_name="full", project="faults")
def log(start, end):
    for step in range(start, end):
        run.log_metric("train/loss", step / 7, step)
        struct.pack_into("<q", returned, 0, step + 1)
def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.02)
log(0, 1000)
wait_for("go")
log(1000, {STEPS})
wait_for("stop")
tracelet.stop_logging()
"""


@pytest.fixture
def crowded(spine: Spine, disk_of_64_mib: Path) -> Spine:
    return Spine(disk_of_64_mib / "home", spine.folder)


def fill(folder: Path) -> Path:
    """A file that takes the rest of the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(block)) == block:
                    pass
            except OSError:
                continue
    return filler


def test_a_disk_that_fills_up_and_is_freed_again(crowded: Spine, disk_of_64_mib: Path) -> None:
    trainer = crowded.trainer(STEPS, script=SCRIPT)
    until(lambda: trainer.returned == 1000, 30)
    until(lambda: crowded.run().durable == 1000 if crowded.status().runs else False, 30)
    filler = fill(disk_of_64_mib)
    (crowded.folder / "go").touch()
    until(lambda: trainer.returned == STEPS, 60, "the training goes on")
    assert crowded.run().durable < STEPS, "the log has no room either"
    filler.unlink()
    until(lambda: crowded.run().durable == STEPS, 60, "everything is durable, by itself")
    (crowded.folder / "stop").touch()
    assert trainer.finish(30) == 0, trainer.errors.read_text()
    said = trainer.errors.read_text()
    assert said.count("\n") <= 1, said
    run = until(lambda: run if (run := crowded.run()).status != pb.RUN_STATUS_RUNNING else None, 20)
    assert run.status == pb.RUN_STATUS_FINISHED
    assert (run.durable, run.dropped) == (STEPS, 0)


def test_delivery_goes_on_while_the_disk_is_full(crowded: Spine, disk_of_64_mib: Path) -> None:
    """Cursors move at the reserve's cost, and the reserve comes back by itself."""
    reserve = crowded.home / "log" / "ballast"
    trainer = crowded.trainer(1000, script=SCRIPT.replace(str(STEPS), "6000"))
    worker = until(lambda: starting_worker(crowded.home), 30, "a worker starts")
    worker.suspend()  # before it is ready
    (crowded.folder / "go").touch()
    (crowded.folder / "stop").touch()
    assert trainer.finish(60) == 0, trainer.errors.read_text()
    (backend,) = crowded.run().backends
    assert (crowded.run().durable, backend.delivered) == (6_000, 0)
    assert reserve.exists()
    filler = fill(disk_of_64_mib)
    worker.resume()
    until(lambda: crowded.run().backends[0].settled, 60, "delivered, on a full disk")
    (backend,) = crowded.run().backends
    assert (backend.delivered, backend.lag_points) == (6_000, 0)
    assert not reserve.exists()
    filler.unlink()
    until(reserve.exists, 30, "the reserve is there again")


def starting_worker(home: Path) -> psutil.Process | None:
    """The process that is to deliver, as soon as there is one."""
    if (pid := collector_pid(home)) is None:
        return None
    return next(iter(children_with(pid, "worker")), None)
