"""The trackers that every exporter's contract is tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tracelet_collector.exporters.base import Exporter, Run

from tests.support.mlflow_store import MlflowStore


@dataclass(frozen=True)
class Arrived:
    """A point as the tracker has it."""

    key: str
    value: float
    step: int


@dataclass
class Tracker:
    """A real tracker that nothing was delivered to yet."""

    make: Callable[[], Exporter]
    run: Run
    arrived: Callable[[], list[Arrived]]
    runs: Callable[[], list[str]]  # the status of each
    infinity: float  # what it keeps of +inf
    files: Callable[[], list[bytes]]  # content of what it keeps of media and artifacts, once for each, sorted


@pytest.fixture(params=["mlflow"])
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    assert request.param == "mlflow"
    from tracelet_collector.exporters.mlflow import MlflowExporter

    store = MlflowStore.fresh(tmp_path / "store")

    def files() -> list[bytes]:
        found = [path for path in store.artifacts().rglob("*") if path.is_file() and "+compressed" not in path.name]
        return sorted(path.read_bytes() for path in found)

    return Tracker(
        MlflowExporter,
        Run("r-1", "a run", "a project", store.uri, 1_700_000_000.25, blobs=str(tmp_path / "blobs")),
        lambda: [Arrived(point.key, point.value, point.step) for point in store.points()],
        lambda: [run["status"] for run in store.runs()],
        1.7976931348623157e308,
        files,
    )
