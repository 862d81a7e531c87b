"""Fixtures of all tests: a home of their own, and nothing left running."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.mlflow_store import MlflowStore
from tests.support.processes import end_all_of, mounted, stop_collector
from tests.support.spine import Spine, shared_home

# Under nohup a hangup is ignored, behind a shell's `&` an interrupt, and every process that a test starts would inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What the test files import makes a million objects that stay: nothing looks for garbage among them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """TRACELET_TORTURE_ROUNDS=3: the first three rounds of each torture test that has rounds."""
    rounds = int(os.environ.get("TRACELET_TORTURE_ROUNDS") or 0)
    if not rounds:
        return
    kept, left = [], []
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {}).values()
        late = any(type(value) is int and value >= rounds for value in values)
        (left if late and item.get_closest_marker("torture") else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


@pytest.fixture(autouse=True)
def _faults_of_ours_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard re-raises what it would swallow, and says again what it said in another test."""
    monkeypatch.setenv("TRACELET_RAISE_INTERNAL", "1")
    monkeypatch.setattr("tracelet.guard._said", {})
    # What another test has taught them.
    monkeypatch.setattr("tracelet.secrets._known", {})
    monkeypatch.setattr("tracelet.exits._noted", None)
    for name in list(os.environ):
        if name.startswith("TRACELET_") and name not in ("TRACELET_RAISE_INTERNAL", "TRACELET_TORTURE_SEED"):
            monkeypatch.delenv(name)
    # Where the tests run, no collector may outlive a script: waiting for delivery has tests of its own.
    monkeypatch.setenv("TRACELET_STOP_WAIT", "durable")
    # What is recorded of itself would be between what the tests count, and has tests of its own.
    monkeypatch.setenv("TRACELET_PROVENANCE", "0")
    monkeypatch.setenv("TRACELET_SYSTEM_EVERY", "0")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh TRACELET_HOME; a collector that was started for it is stopped afterwards."""
    path = Path(tempfile.mkdtemp(prefix="tlt-"))
    monkeypatch.setenv("TRACELET_HOME", str(path))
    yield path
    stop_collector(path)
    end_all_of(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def spine(home: Path, tmp_path: Path) -> Spine:
    """A home and an MLflow store of their own."""
    MlflowStore.fresh(tmp_path)
    return Spine(home, tmp_path)


@pytest.fixture(scope="session")
def _shared_home() -> Iterator[Path]:
    with shared_home() as home:
        yield home


@pytest.fixture
def shared_spine(_shared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spine]:
    """A store of their own in a home that the tests of this process share: its collector and its MLflow worker are warm."""
    monkeypatch.setenv("TRACELET_HOME", str(_shared_home))
    MlflowStore.fresh(tmp_path)
    others = Spine(_shared_home, tmp_path).status().runs
    yield Spine(_shared_home, tmp_path, frozenset(run.run_id for run in others))
    end_all_of(_shared_home)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted(tmp_path / "disk", 8) as disk:
        yield disk


@pytest.fixture
def disk_of_64_mib(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB; a collector whose home is in it is stopped."""
    with mounted(tmp_path / "disk", 64) as disk:
        (disk / "home").mkdir()
        yield disk
        stop_collector(disk / "home")


@pytest.fixture
def torture_seed() -> int:
    """Where a torture run's seeds begin: TRACELET_TORTURE_SEED, else drawn; printed, so that a failure can be repeated."""
    seed = int(os.environ.get("TRACELET_TORTURE_SEED") or random.randrange(10**6))
    print(f"TRACELET_TORTURE_SEED={seed}")
    return seed
