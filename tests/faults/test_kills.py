"""kill -9 of the trainer, the collector, the worker, of all: no point whose call returned is lost, none is there twice."""

from __future__ import annotations

import random

import pytest

from tests.support.processes import collector_pid, until
from tests.support.spine import Spine
from tests.support.trainers import LAST, PATIENT, Trainer
from tracelet.proto.v1 import records_pb2 as pb

pytestmark = pytest.mark.faults

STEPS = 3000
PACE = 0.0005


def expected(count: int) -> dict[tuple[int, float], int]:
    return {(step, step / 7): 1 for step in range(count)}


def begin(spine: Spine) -> Trainer:
    """A training that goes on until `check_whole` or a signal ends it."""
    return spine.trainer(STEPS, PACE, PATIENT)


def check_whole(spine: Spine, trainer: Trainer) -> None:
    """The script ends by itself: all of it arrives once, in one run, which finishes."""
    (spine.folder / "go").touch()
    assert trainer.finish(90) == 0, trainer.errors.read_text()
    (run,) = spine.settle().runs
    assert spine.stored() == expected(STEPS)
    assert run.durable == STEPS
    assert run.status == pb.RUN_STATUS_FINISHED
    assert spine.tracked() == ["FINISHED"]


def check_killed(spine: Spine, returned: int) -> None:
    """The script was killed: what it had recorded arrived once, in one run, which was killed."""
    (run,) = spine.settle().runs
    stored = spine.stored()
    assert len(stored) - returned in (0, 1), "the call under way may have made it"
    assert stored == expected(len(stored))
    assert run.durable == len(stored)
    assert run.status == pb.RUN_STATUS_KILLED
    assert spine.tracked() == ["KILLED"]


def kill_trainer(spine: Spine, seed: int) -> None:
    enough = random.Random(seed).randint(1, STEPS - 500)
    trainer = begin(spine)
    until(lambda: trainer.returned >= enough, 90)
    check_killed(spine, trainer.kill())


def kill_collector(spine: Spine, seed: int) -> None:
    chance = random.Random(seed)
    trainer = begin(spine)
    for _ in range(3):
        mark = min(trainer.returned + chance.randint(1, STEPS // 4), STEPS - LAST)
        until(lambda mark=mark: trainer.returned >= mark, 90)
        until(lambda: collector_pid(spine.home), 60, "the trainer has started another")
        spine.kill_collector()
    check_whole(spine, trainer)


def kill_worker(spine: Spine, seed: int, kills: int = 3) -> None:
    chance = random.Random(seed)
    trainer = begin(spine)
    for _ in range(kills):
        until(lambda: collector_pid(spine.home), 60)
        # Any moment of the worker's life.
        goal = min(delivered(spine) + chance.randint(0, STEPS // 4), STEPS - LAST)
        until(lambda goal=goal: delivered(spine) >= goal, 90)
        spine.kill_worker()
    check_whole(spine, trainer)


def delivered(spine: Spine) -> int:
    """Points that the tracker has, as the collector knows it."""
    return sum(backend.delivered for run in spine.status().runs for backend in run.backends)


def kill_all(spine: Spine, seed: int) -> None:
    enough = random.Random(seed).randint(1, STEPS - 500)
    trainer = begin(spine)
    until(lambda: trainer.returned >= enough, 90)
    if collector_pid(spine.home) is not None:
        if any(backend.worker_pid for run in spine.status().runs for backend in run.backends):
            spine.kill_worker()
        spine.kill_collector()
    check_killed(spine, trainer.kill())


@pytest.mark.parametrize("seed", range(2))
def test_the_trainer(spine: Spine, seed: int) -> None:
    kill_trainer(spine, seed)


@pytest.mark.parametrize("seed", range(1))
def test_the_collector(spine: Spine, seed: int) -> None:
    kill_collector(spine, seed)


def test_the_worker(spine: Spine) -> None:
    kill_worker(spine, 1, kills=2)  # the next worker imports MLflow again, each time


@pytest.mark.parametrize("seed", range(1))
def test_all_three(spine: Spine, seed: int) -> None:
    kill_all(spine, seed)


@pytest.mark.torture
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("round", range(50))
@pytest.mark.parametrize("kill", [kill_trainer, kill_collector, kill_worker, kill_all])
def test_torture(spine: Spine, torture_seed: int, kill: object, round: int) -> None:
    """The whole way from a script to MLflow, and who is killed in it."""
    assert callable(kill)
    kill(spine, torture_seed + round)
