"""MLflow, as a SQLite store."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.mlflow import MlflowExporter

from tests.contract.tracker import Arrived, Shown, Tracker
from tests.support.mlflow_store import MlflowStore
from tracelet.core.metrics import Metric, RunStatus

__all__ = ["VARIANTS"]

_MOST = 1.7976931348623157e308
_LAST_TIME = 253_402_300_799.999  # the end of the year 9999


def _shown(metric: Metric) -> Shown:
    infinite = math.isinf(metric.value)
    return Shown(metric.name, math.copysign(_MOST, metric.value) if infinite else metric.value, infinite)


def _make(folder: Path) -> Tracker:
    store = MlflowStore.fresh(folder / "store")

    def files() -> list[bytes]:
        found = [path for path in store.artifacts().rglob("*") if path.is_file() and "+compressed" not in path.name]
        return sorted(path.read_bytes() for path in found)

    def params() -> dict[str, str]:
        changed = {name[6:]: value for name, value in store.tags().items() if name.startswith("param.")}
        return store.params() | changed

    return Tracker(
        make=MlflowExporter,
        run=Run("r-1", "a run", "a project", store.uri, 1_700_000_000.25, blobs=str(folder / "blobs")),
        arrived=lambda: [Arrived(p.key, p.value, p.step, p.timestamp / 1000) for p in store.points()],
        runs=lambda: [run["status"] for run in store.runs()],
        files=files,
        params=params,
        tags=store.tags,
        words={status: status.value.upper() for status in RunStatus},
        shown=_shown,
        time_precision=0.0011,
        time_is_kept=lambda wall_time: 0 <= wall_time <= _LAST_TIME,
    )


VARIANTS: Mapping[str, Callable[[Path], Tracker]] = {"mlflow": _make}
