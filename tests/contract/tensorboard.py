"""TensorBoard, as a folder that its own readers read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tracelet_collector.exporters.base import Run
from tracelet_collector.exporters.tensorboard import TensorBoardExporter
from tracelet_collector.exporters.tensorboard_events import as_float32

from tests.contract.tracker import Arrived, Shown, Tracker
from tests.support.tensorboard_folder import TensorBoardFolder
from tracelet.core.metrics import Metric, RunStatus

__all__ = ["VARIANTS"]

_SHOWN_BY = {
    "image": "image",
    "figure": "image",
    "video": "image",
    "histogram": "histo",
    "table": "text",
    "pr_curve": "pr_curves",
    "layout": "custom_scalars",
}


def _shown(metric: Metric) -> Shown:
    stored, near = as_float32(metric.value)
    return Shown(f"{metric.log_dir.removeprefix('runs')}:{metric.tag}", stored, not near)


def _make(folder: Path) -> Tracker:
    store = TensorBoardFolder(folder / "tensor board")
    run = Run("r-1", "a run", "a project", store.uri, 1_700_000_000.25, blobs=str(folder / "blobs"))

    def arrived() -> list[Arrived]:
        found = []
        for p in store.points():
            label = "/".join(p.run.split("/")[2:])
            found.append(Arrived(f"{label and '/' + label}:{p.tag}", p.value, p.step, p.wall_time))
        return found

    def files() -> list[bytes]:
        return sorted([*store.files("artifacts").values(), *store.files("media").values()])

    def params() -> dict[str, str]:
        said = store.hparams()
        return {
            name: str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            for name, value in said.items()
        }

    return Tracker(
        make=TensorBoardExporter,
        run=run,
        arrived=arrived,
        runs=lambda: [card["status"] for card in store.cards()],
        files=files,
        params=params,
        tags=lambda: {name: value for card in store.cards() for name, value in card["tags"].items()},
        words={status: status.value for status in RunStatus},
        shown=_shown,
        time_precision=0.0,
        time_is_kept=lambda wall_time: abs(wall_time) <= 8.64e12,
        exact_kinds=frozenset({"of a later version"}),
        media=store.media,
        shown_by=lambda kind: _SHOWN_BY.get(kind, kind),
    )


VARIANTS: Mapping[str, Callable[[Path], Tracker]] = {"tensorboard": _make}
