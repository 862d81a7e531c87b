"""W&B, offline: what is in the folders that `wandb sync` would upload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.wandb import WandbExporter

from tests.contract.samples import KINDS
from tests.contract.tracker import Arrived, Tracker
from tests.support.wandb_runs import OfflineRuns
from tracelet.core.metrics import RunStatus

__all__ = ["VARIANTS"]

_LAST_TIME = 253_402_300_799.0  # the end of the year 9999
_EXACT = frozenset(KINDS) - {"text", "histogram", "pr_curve", "table"}


def _offline(folder: Path) -> Tracker:
    runs = OfflineRuns(folder / "store")

    def make() -> WandbExporter:
        exporter = WandbExporter()
        runs.exporters.append(exporter)
        return exporter

    def arrived() -> list[Arrived]:
        return [
            Arrived(key, float(value), int(row["global_step"]), row["_timestamp"])
            for row in runs.rows()
            for key, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
            if key != "global_step" and not key.startswith("_") and ".meta/" not in key
            if f"{key.rpartition('.')[0]}._type" not in row  # a part of media
        ]

    return Tracker(
        make=make,
        run=Run(
            "r-1", "a run", "a project", f"offline:{folder / 'store'}", 1_700_000_000.25, blobs=str(folder / "blobs")
        ),
        arrived=arrived,
        runs=runs.states,
        files=runs.contents,
        media=runs.drawn,
        params=lambda: {name: str(value) for name, value in runs.config().items()},
        tags=runs.tags,
        words={RunStatus.RUNNING: "running", RunStatus.FINISHED: "0", RunStatus.FAILED: "1", RunStatus.KILLED: "255"},
        time_precision=1e-6,
        time_is_kept=lambda wall_time: 0 <= wall_time <= _LAST_TIME,
        exact_kinds=_EXACT,
    )


VARIANTS: Mapping[str, Callable[[Path], Tracker]] = {"wandb": _offline}
