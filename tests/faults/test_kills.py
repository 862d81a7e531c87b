"""kill -9 of the trainer, the collector, the worker, of all: no point whose call returned is lost, none is there twice."""

from __future__ import annotations

import random

import pytest

from tests.support.processes import collector_pid, until
from tests.support.spine import Spine
from tracelet.proto.v1 import records_pb2 as pb

pytestmark = pytest.mark.faults

STEPS = 3000
PACE = 0.0005


def expected(count: int) -> dict[tuple[int, float], int]:
    return {(step, step / 7): 1 for step in range(count)}


def check_whole(spine: Spine) -> None:
    """The script ended by itself: all of it arrived once, in one run, which finished."""
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
    trainer = spine.trainer(STEPS, PACE)
    until(lambda: trainer.returned >= enough, 30)
    check_killed(spine, trainer.kill())


def kill_collector(spine: Spine, seed: int) -> None:
    chance = random.Random(seed)
    trainer = spine.trainer(STEPS, PACE)
    killed = 0
    for _ in range(3):
        mark = trainer.returned + chance.randint(1, STEPS // 4)
        until(lambda mark=mark: trainer.returned >= mark or trainer.over, 30)
        until(lambda: collector_pid(spine.home) or trainer.over, 30)
        if collector_pid(spine.home) is not None:
            spine.kill_collector()
            killed += 1
    assert trainer.finish(60) == 0, trainer.errors.read_text()
    assert killed
    check_whole(spine)


def kill_worker(spine: Spine, seed: int) -> None:
    chance = random.Random(seed)
    trainer = spine.trainer(STEPS, PACE)
    for _ in range(3):
        until(lambda: collector_pid(spine.home), 30)
        goal = delivered(spine) + chance.randint(0, STEPS // 4)  # any moment of the worker's life
        until(lambda goal=goal: delivered(spine) >= goal or trainer.over, 60)
        spine.kill_worker()
    assert trainer.finish(60) == 0, trainer.errors.read_text()
    check_whole(spine)


def delivered(spine: Spine) -> int:
    """Points that the tracker has, as the collector knows it."""
    return sum(backend.delivered for run in spine.status().runs for backend in run.backends)


def kill_all(spine: Spine, seed: int) -> None:
    enough = random.Random(seed).randint(1, STEPS - 500)
    trainer = spine.trainer(STEPS, PACE)
    until(lambda: trainer.returned >= enough, 30)
    if collector_pid(spine.home) is not None:
        if any(backend.worker_pid for run in spine.status().runs for backend in run.backends):
            spine.kill_worker()
        spine.kill_collector()
    check_killed(spine, trainer.kill())


@pytest.mark.parametrize("seed", range(2))
def test_the_trainer(spine: Spine, seed: int) -> None:
    kill_trainer(spine, seed)


@pytest.mark.parametrize("seed", range(2))
def test_the_collector(spine: Spine, seed: int) -> None:
    kill_collector(spine, seed)


def test_the_worker(spine: Spine) -> None:
    kill_worker(spine, 1)


@pytest.mark.parametrize("seed", range(2))
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
