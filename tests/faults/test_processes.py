"""Ten scripts at once, forks, a tracker that is down, no room for a collector."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psutil
import pytest

from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.spoolfile import SpoolDirectory
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT


def collectors(spine: Spine) -> list[int]:
    """Processes that serve the home."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "tracelet_collector" in words and str(spine.home) in words:
            found.append(process.info["pid"])
    return found


def test_ten_scripts_at_once_share_one_collector(spine: Spine) -> None:
    folders = []
    for number in range(10):
        folder = spine.folder / str(number)
        folder.mkdir()
        folders.append(Spine(spine.home, folder))
    trainers = [one.trainer(50, MLFLOW_TRACKING_URI=spine.environment["MLFLOW_TRACKING_URI"]) for one in folders]
    assert [trainer.finish(90) for trainer in trainers] == [0] * 10
    until(lambda: len(collectors(spine)) == 1, 10, "one collector")
    reply = spine.settle()
    assert [run.durable for run in reply.runs] == [50] * 10
    assert spine.stored() == {(step, step / 7): 10 for step in range(50)}


FORKS = """
import os, sys
import tracelet
run = tracelet.start_logging(exp_name="forks", project="faults")
for step in range(100):
    run.log_metric("parent", step, step)
    if step in (20, 40, 60):
        if (child := os.fork()) == 0:
            for inner in range(100):
                run.log_metric(f"child{step}", inner, inner)
            os._exit(0)
for _ in range(3):
    os.wait()
tracelet.stop_logging()
"""


def test_a_fork_while_logging(shared_spine: Spine) -> None:
    spine = shared_spine
    trainer = spine.trainer(1, script=FORKS)
    assert trainer.finish(60) == 0
    assert trainer.errors.read_text() == ""
    (run,) = spine.settle().runs
    assert run.durable == 400
    for name in ("parent", "child20", "child40", "child60"):
        assert spine.stored(name) == {(step, float(step)): 1 for step in range(100)}
    assert spine.tracked() == ["FINISHED"]


def test_a_long_lived_child_is_read_along(shared_spine: Spine) -> None:
    """The points of a forked child arrive while it lives."""
    spine = shared_spine
    script = """
import os, sys, time
import tracelet
run = tracelet.start_logging(exp_name="forks", project="faults")
if os.fork() == 0:
    for step in range(10):
        run.log_metric("child", step, step)
    time.sleep(120)
    os._exit(0)
run.log_metric("parent", 1, 1)
time.sleep(120)
"""
    trainer = spine.trainer(1, script=script)
    until(lambda: spine.run().durable == 11 if spine.status().runs else False, 90, "the child's points")
    for child in psutil.Process(trainer.process.pid).children():
        child.kill()
    trainer.kill()
    spine.settle()
    assert spine.stored("child") == {(step, float(step)): 1 for step in range(10)}


def test_a_long_lived_child_does_not_fill_the_disk(spine: Spine) -> None:
    """What is durable of a living child's spool is removed, also by a collector that comes later."""
    script = f"""
import os, sys, time
import tracelet
from tracelet.core import targets
targets.resolve = lambda *a, **k: ()  # or each collector's worker imports MLflow
run = tracelet.start_logging(exp_name="forks", project="faults")
run.log_metric("parent", 1, 1)
if os.fork() == 0:
    for step in range({4 * SLOTS_PER_SEGMENT}):
        run.log_metric("child", step, step)
        if step in ({SLOTS_PER_SEGMENT}, {3 * SLOTS_PER_SEGMENT}):
            while not os.path.exists(f"go-{{step}}"):
                time.sleep(0.02)
time.sleep(120)
os._exit(0)
"""
    trainer = spine.trainer(1, script=script)

    def durable(points: int) -> bool:
        return bool(spine.status().runs) and spine.run().durable == points

    def segments() -> list[int]:
        (child,) = (s for s in SpoolDirectory.under(spine.home) if not s.info().sends)
        return [number for number, _ in child.segments()]

    until(lambda: durable(1 + 1 + SLOTS_PER_SEGMENT), 30)
    spine.kill_collector()
    (spine.folder / f"go-{SLOTS_PER_SEGMENT}").touch()
    until(lambda: durable(1 + 1 + 3 * SLOTS_PER_SEGMENT), 60)
    until(lambda: segments() == [2, 3], 10)
    spine.kill_collector()
    (spine.folder / f"go-{3 * SLOTS_PER_SEGMENT}").touch()
    until(lambda: durable(1 + 4 * SLOTS_PER_SEGMENT), 60)
    for child in psutil.Process(trainer.process.pid).children():
        child.kill()
    trainer.kill()
    until(lambda: list(SpoolDirectory.under(spine.home)) == [], 30, "both spools are adopted")
    assert spine.run().durable == 1 + 4 * SLOTS_PER_SEGMENT
    assert spine.run().dropped == 0


def test_a_tracker_that_is_stuck_delays_nobody(spine: Spine) -> None:
    """MLflow's database is locked by somebody else for a while: the training goes on, and everything arrives."""
    with closing(sqlite3.connect(spine.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        trainer = spine.trainer(2000)
        assert trainer.finish(60) == 0, trainer.errors.read_text()
        assert spine.run().durable == 2000
        until(lambda: spine.run().backends[0].state == "retrying", 60, "the trouble is shown")
        assert spine.run().backends[0].lag_points == 2000
        other.execute("ROLLBACK")
    spine.settle()
    assert spine.stored() == {(step, step / 7): 1 for step in range(2000)}


@pytest.mark.faults
def test_when_no_collector_can_start_the_points_are_kept(spine: Spine) -> None:
    """One line, the exit code untouched, and a later collector takes them."""
    obstacle = spine.home / "log"
    obstacle.write_text("in the way")
    trainer = spine.trainer(500, TRACELET_STOP_TIMEOUT="1")
    assert trainer.finish(20) == 0
    said = trainer.errors.read_text()
    assert said.count("\n") == 1
    assert "kept in" in said
    assert len(list(SpoolDirectory.under(spine.home))) == 1
    obstacle.unlink()
    spine.settle()
    assert spine.stored() == {(step, step / 7): 1 for step in range(500)}
    assert spine.tracked() == ["FINISHED"]
    assert list(SpoolDirectory.under(spine.home)) == []
