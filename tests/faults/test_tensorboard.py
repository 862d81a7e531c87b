"""Who is killed while event files are written: the folder has each point once, and is what it would be without."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.processes import collector_pid, until
from tests.support.spine import Spine
from tests.support.tensorboard_folder import TensorBoardFolder
from tests.support.trainers import LAST, PATIENT
from tracelet.errors import CollectorError
from tracelet.transport import local
from tracelet.transport.wait import status

pytestmark = pytest.mark.faults

STEPS = 3000
PACE = 0.0005


class Desktop(Spine):
    """A home, and a folder that runs are written to."""

    @property
    def tensorboard(self) -> TensorBoardFolder:
        return TensorBoardFolder(self.folder / "tb")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "TRACELET_HOME": str(self.home),
            "TRACELET_BACKEND": "tensorboard",
            "TRACELET_TENSORBOARD_DIR": str(self.tensorboard.path),
        }

    def worker(self) -> int:
        """The process that delivers."""

        def found() -> int:
            try:
                reply = status(local.ensure(self.home, 60.0).address, timeout=2.0)
            except CollectorError:
                return 0  # the address was that of one that was killed a moment ago
            return next((backend.worker_pid for run in reply.runs for backend in run.backends), 0)

        return until(found, 90, "a worker")

    def check_whole(self) -> None:
        """Every point once, in the order of the script."""
        (run,) = self.settle(180).runs
        assert run.durable == STEPS
        assert [(b.delivered, b.rerouted, b.dead) for b in run.backends] == [(STEPS, 0, 0)]
        points = self.tensorboard.points()
        assert [p.step for p in points] == list(range(STEPS))
        assert [p.value for p in points] == [pytest.approx(step / 7, rel=6e-8) for step in range(STEPS)]
        assert [card["status"] for card in self.tensorboard.cards()] == ["finished"]


@pytest.fixture
def desktop(home: Path, tmp_path: Path) -> Desktop:
    return Desktop(home, tmp_path)


def kill_at_random(desktop: Desktop, seed: int, kills: int) -> None:
    chance = random.Random(seed)
    trainer = desktop.trainer(STEPS, PACE, PATIENT)
    for _ in range(kills):
        goal = min(trainer.returned + chance.randint(1, STEPS // kills), STEPS - LAST)
        until(lambda goal=goal: trainer.returned >= goal, 90)
        of_a_collector = chance.random() < 0.3
        kill(until(lambda: collector_pid(desktop.home), 90, "a collector") if of_a_collector else desktop.worker())
    (desktop.folder / "go").touch()
    assert trainer.finish(120) == 0, trainer.errors.read_text()
    desktop.check_whole()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself


@pytest.mark.parametrize("seed", range(1))
def test_kills(desktop: Desktop, seed: int) -> None:
    kill_at_random(desktop, seed, kills=3)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("round", range(20))
def test_torture(desktop: Desktop, torture_seed: int, round: int) -> None:
    kill_at_random(desktop, torture_seed + round, kills=15)


def test_the_folder_is_deleted_under_a_run(desktop: Desktop) -> None:
    """It is written again, from the run's first point."""
    trainer = desktop.trainer(STEPS, PACE, PATIENT)
    until(lambda: desktop.tensorboard.path.exists() and len(desktop.tensorboard.points()) > 50, 90)
    assert not trainer.over
    shutil.rmtree(desktop.tensorboard.path, ignore_errors=True)
    (desktop.folder / "go").touch()
    assert trainer.finish(120) == 0, trainer.errors.read_text()
    desktop.check_whole()
