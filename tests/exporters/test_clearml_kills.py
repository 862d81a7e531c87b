"""kill -9 of the worker that delivers to ClearML, at any moment: every point is there once, in one task."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.clearml_offline import sessions
from tests.support.clearml_server import SECRET, ClearmlServer, Fault, environment
from tests.support.processes import until
from tests.support.spine import Spine
from tests.support.trainers import PLAIN

pytestmark = pytest.mark.faults

STEPS = 1500
LAST = 100
# Two values of each step, and does not end before it is told to.
SCRIPT = PLAIN.replace(
    "    run.log_metric(",
    f"    while step == steps - {LAST} and not os.path.exists('go'): time.sleep(0.01)\n"
    "    if step % 100 == 0: run.log_params({'last': step})\n"
    "    run.log_metric('train/twice', step / 3, step // 2)\n"
    "    run.log_metric(",
)


def expected() -> Counter[tuple[str, float, int]]:
    loss = [("train/loss", step / 7, step) for step in range(STEPS)]
    twice = [(f"train/twice{' #2' if step % 2 else ''}", step / 3, step // 2) for step in range(STEPS)]
    return Counter(loss + twice)


def kill_at_random(spine: Spine, seed: int, variables: dict[str, str], kills: int = 3) -> None:
    chance = random.Random(seed)
    trainer = spine.trainer(STEPS, 0.0005, SCRIPT, TRACELET_BACKEND="clearml", **variables)
    for _ in range(kills):
        goal = min(trainer.returned + chance.randint(1, STEPS // 3), STEPS - LAST)
        until(lambda goal=goal: trainer.returned >= goal, 90)
        spine.kill_worker()
    (spine.folder / "go").touch()
    assert trainer.finish(90) == 0, trainer.errors.read_text()
    (run,) = spine.settle(120).runs
    (backend,) = run.backends
    assert (run.durable, backend.delivered + backend.rerouted, backend.dead) == (2 * STEPS, 2 * STEPS, 0)


@pytest.mark.parametrize("seed", range(2))
def test_an_offline_session(spine: Spine, seed: int) -> None:
    variables = {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(spine.folder / "cache")}
    kill_at_random(spine, seed, variables)
    (session,) = sessions(spine.folder / "cache" / "offline")
    assert session.scalars() == expected()
    assert session.packed() == session.unpacked()
    assert session.task()["hyperparams"]["General"]["last"]["value"] == str(STEPS - 100)


@pytest.mark.parametrize("seed", range(2))
def test_a_server(spine: Spine, seed: int) -> None:
    server = ClearmlServer()
    try:
        kill_at_random(spine, seed, environment(server))
        assert server.scalars() == expected()
        assert (server.task()["status"], server.task()["status_message"]) == ("completed", "")
        assert SECRET not in known_to_everybody(spine.home)
    finally:
        server.close()


def known_to_everybody(home: Path) -> str:
    """What is written anywhere but in the credentials."""
    files = [path for path in home.rglob("*") if path.is_file() and "credentials" not in path.parts]
    assert any(path.name.startswith("worker-clearml") for path in files)
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


def test_a_server_that_comes_back(spine: Spine) -> None:
    """It refuses connections, then is busy, then takes no key, then all is well: everything arrives once."""
    server = ClearmlServer()
    try:
        server.close()
        trainer = spine.trainer(STEPS, 0.0, SCRIPT, TRACELET_BACKEND="clearml", **environment(server))
        until(lambda: spine.status().runs and spine.run().backends[0].state == "retrying", 120)
        server.fault = Fault(status=503, times=2)
        server.reopen()
        (spine.folder / "go").touch()
        assert trainer.finish(90) == 0, trainer.errors.read_text()
        spine.settle(120)
        assert server.scalars() == expected()
        assert len(server.tasks) == 1
    finally:
        server.close()
