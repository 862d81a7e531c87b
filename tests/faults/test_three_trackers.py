"""Three trackers at once, and what is killed under them: each has every point once, and the books of all three add up."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.support.mlflow_store import MlflowStore
from tests.support.processes import collector_pid, until
from tests.support.trackers import KINDS, Trackers
from tests.support.trainers import LAST, PATIENT
from tracelet.proto.v1 import collector_pb2 as wire

pytestmark = pytest.mark.faults

TRACELET = Path(sys.executable).with_name("tracelet")
STEPS = 2000
PACE = 0.001


@pytest.fixture
def trackers(home: Path, tmp_path: Path) -> Trackers:
    """A home and three trackers of their own."""
    MlflowStore.fresh(tmp_path)
    return Trackers(home, tmp_path)


def check_whole(trackers: Trackers) -> wire.RunState:
    (run,) = trackers.settle(180).runs
    assert run.durable == STEPS
    expected = Counter({(step, step / 7): 1 for step in range(STEPS)})
    for kind, counted in trackers.counts().items():
        assert sum(counted.values()) == STEPS, kind
        assert {step for step, _ in counted} == {step for step, _ in expected}, kind
        if kind != "clearml":  # keeps what its event has room for
            assert counted == expected, kind
    assert [(b.kind, b.delivered + b.rerouted, b.dead) for b in run.backends] == [(kind, STEPS, 0) for kind in KINDS]
    return run


def test_all_that_is_logged_is_in_all_three_and_all_of_it_again_changes_nothing(trackers: Trackers) -> None:
    trainer = trackers.trainer(STEPS)
    assert trainer.finish(90) == 0, trainer.errors.read_text()
    assert trainer.errors.read_text() == ""
    run = check_whole(trackers)
    once = trackers.counts()
    for kind in KINDS:
        done = subprocess.run(
            [TRACELET, "replay", run.run_id, "--to", kind, "--again"],
            cwd=trackers.folder,
            env=os.environ | trackers.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    check_whole(trackers)
    assert trackers.counts() == once


def kill_at_random(trackers: Trackers, seed: int, kills: int) -> None:
    """Each worker, W&B's own server process and the collector, in any order, while a script logs."""
    chance = random.Random(seed)
    trainer = trackers.trainer(STEPS, PACE, PATIENT)
    for _ in range(kills):
        goal = min(trainer.returned + chance.randint(1, STEPS // 3), STEPS - LAST)
        until(lambda goal=goal: trainer.returned >= goal, 90)
        victim = chance.choice([*KINDS, "wandb-core", "collector"])
        if victim == "collector":
            trackers.kill(until(lambda: collector_pid(trackers.home), 60, "a collector"))
        elif victim == "wandb-core":
            worker = trackers.worker("wandb")
            for child in children(worker):
                trackers.kill(child)
        else:
            trackers.kill(trackers.worker(victim))
    (trackers.folder / "go").touch()
    assert trainer.finish(120) == 0, trainer.errors.read_text()
    check_whole(trackers)


def children(pid: int) -> list[int]:
    try:
        return [] if pid < 0 else [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("seed", range(2))
def test_kills(trackers: Trackers, seed: int) -> None:
    kill_at_random(trackers, seed, kills=3)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("round", range(50))
def test_torture(trackers: Trackers, torture_seed: int, round: int) -> None:
    """The whole way from a script to three trackers, and who is killed in it."""
    kill_at_random(trackers, torture_seed + round, kills=5)


@pytest.mark.parametrize("how", ["refuses", "does not answer"])
def test_one_that_is_down_delays_no_other(trackers: Trackers, how: str) -> None:
    """MLflow takes nothing: the other two are done with all of the run. When it is back, it has all, in order."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as silent:
        port = silent.getsockname()[1]
        if how == "refuses":
            silent.close()
        down = f"http://127.0.0.1:{port}"
        trainer = trackers.trainer(STEPS, MLFLOW_TRACKING_URI=down)
        assert trainer.finish(90) == 0, trainer.errors.read_text()

        def others_are_done() -> bool:
            (run,) = trackers.status().runs
            return all(b.settled for b in run.backends if b.kind != "mlflow")

        until(others_are_done, 120)
        (run,) = trackers.status().runs
        mlflow = next(b for b in run.backends if b.kind == "mlflow")
        assert (mlflow.delivered, mlflow.lag_points) == (0, STEPS)
        if how == "refuses":
            until(lambda: trackers.run().backends[0].state == "retrying", 60)
    for counted in (trackers.in_wandb(), trackers.in_clearml()):
        assert sum(counted.values()) == STEPS


def test_one_that_is_back_has_all_of_it_once(trackers: Trackers) -> None:
    """MLflow's store is locked while a run goes on and ends; then it is free."""
    with closing(sqlite3.connect(trackers.database, isolation_level=None, timeout=60)) as db:
        db.execute("BEGIN EXCLUSIVE")
        trainer = trackers.trainer(STEPS)
        assert trainer.finish(90) == 0, trainer.errors.read_text()
        until(lambda: all(b.settled for b in trackers.run().backends if b.kind != "mlflow"), 120)
        assert trackers.run().backends[0].lag_points == STEPS
        db.execute("ROLLBACK")
    check_whole(trackers)


def test_folders_that_are_deleted_under_a_run_are_made_anew(trackers: Trackers) -> None:
    """Both offline trackers lose what they had, in the middle; the log has it all."""
    trainer = trackers.trainer(STEPS, PACE, PATIENT)
    until(lambda: trainer.returned >= STEPS // 2, 90)
    until(lambda: trackers.status().runs and all(b.delivered > 100 for b in trackers.run().backends), 90)
    for folder in ("wandb", "clearml"):
        shutil.rmtree(trackers.folder / folder)
    (trackers.folder / "go").touch()
    assert trainer.finish(90) == 0, trainer.errors.read_text()
    check_whole(trackers)
