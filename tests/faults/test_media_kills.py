"""kill -9 of the trainer, the collector and the worker while pictures are under way: each that was logged is there, once."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter

import pytest

from tests.support.mlflow_store import MlflowStore
from tests.support.processes import collector_pid, until
from tests.support.spine import Spine
from tracelet.proto.v1 import records_pb2 as pb

pytestmark = pytest.mark.faults

# Logs texts, most of them too large for a record: the same in every run.
SCRIPT = """
import mmap, struct, sys, time
import tracelet
returned_path, steps, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
file = open(returned_path, "r+b")
returned = mmap.mmap(file.fileno(), 8)
run = tracelet.start_logging(exp_name="trainer", project="faults")
for step in range(steps):
    run.log_text("sample", f"{step} " * (40_000 if step % 3 else 10), step)
    struct.pack_into("<q", returned, 0, step + 1)
    time.sleep(pace)
tracelet.stop_logging()
"""
STEPS = 120
PACE = 0.02


def logged(step: int) -> str:
    return hashlib.sha256((f"{step} " * (40_000 if step % 3 else 10)).encode()).hexdigest()


def arrived(spine: Spine) -> Counter[tuple[int, str]]:
    """Steps, and hashes of their content, as MLflow has them."""
    root = MlflowStore(spine.database).artifacts() / "texts" / "sample"
    found: Counter[tuple[int, str]] = Counter()
    for path in root.iterdir():
        named = re.fullmatch(r"step_(\d+)(_\d+)?\.md", path.name)
        assert named, path
        found[int(named[1]), hashlib.sha256(path.read_bytes()).hexdigest()] += 1
    return found


def expected(count: int) -> Counter[tuple[int, str]]:
    return Counter((step, logged(step)) for step in range(count))


def has_worker(spine: Spine) -> bool:
    return any(backend.worker_pid for run in spine.status().runs for backend in run.backends)


def kill_collector_and_worker(spine: Spine, seed: int) -> None:
    chance = random.Random(seed)
    trainer = spine.trainer(STEPS, PACE, SCRIPT)
    for victim in chance.sample(["collector", "collector", "worker"], 3):
        mark = trainer.returned + chance.randint(5, STEPS // 4)
        until(lambda mark=mark: trainer.returned >= mark or trainer.over, 30)
        until(lambda: collector_pid(spine.home) or trainer.over, 30)
        if collector_pid(spine.home) is None:
            continue
        if victim == "worker":
            until(lambda: has_worker(spine) or trainer.over, 60)
            if has_worker(spine):
                spine.kill_worker()
        else:
            spine.kill_collector()
    assert trainer.finish(60) == 0, trainer.errors.read_text()
    (run,) = spine.settle().runs
    assert arrived(spine) == expected(STEPS)
    assert (run.durable, run.dropped, run.status) == (STEPS, 0, pb.RUN_STATUS_FINISHED)
    assert spine.tracked() == ["FINISHED"]


def kill_trainer(spine: Spine, seed: int) -> None:
    trainer = spine.trainer(STEPS, PACE, SCRIPT)
    enough = random.Random(seed).randint(5, STEPS - 20)
    until(lambda: trainer.returned >= enough, 30)
    returned = trainer.kill()
    (run,) = spine.settle().runs
    found = arrived(spine)
    assert len(found) - returned in (0, 1), "the call under way may have made it"
    assert found == expected(len(found))
    assert (run.durable, run.dropped, run.status) == (len(found), 0, pb.RUN_STATUS_KILLED)


def test_the_collector_and_the_worker(spine: Spine) -> None:
    kill_collector_and_worker(spine, 1)


def test_the_trainer(spine: Spine) -> None:
    kill_trainer(spine, 2)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(25))
def test_torture(spine: Spine, torture_seed: int, number: int) -> None:
    """Pictures, through to MLflow: the collector and the worker are killed, or the trainer."""
    (kill_trainer if number % 5 == 4 else kill_collector_and_worker)(spine, torture_seed + number)
