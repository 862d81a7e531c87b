"""What libraries keep of what was logged, in their own files: name -> steps and values, in the order of the calls."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

from numpy import float32
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.processes import until
from tests.support.wandb_file import history, records
from tracelet.testing import Captured

__all__ = ["Points", "arrived", "as_float32", "in_csv", "in_event_files", "in_mlflow", "in_wandb"]

Points: TypeAlias = dict[str, list[tuple[int, float]]]


def arrived(captured: Captured, *beginnings: str, run: Any = None) -> Points:
    """What arrived under names of the user's, without what tracelet measures; or under names with these beginnings."""
    found: Points = {}
    for point in captured.points(run=run):
        if point.name.startswith(beginnings) if beginnings else not point.name.startswith(("optim/", "system/")):
            found.setdefault(point.name, []).append((point.step, point.value))
    return found


def as_float32(points: Points) -> Points:
    """What an event file keeps of numbers that were double."""
    return {name: [(step, float(float32(value))) for step, value in each] for name, each in points.items()}


def in_event_files(folder: Path) -> Points:
    """Those of TensorBoard's files below a folder: float32, which is what Lightning's values are anyway."""
    found: Points = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return found


def in_csv(file: Path) -> Points:
    """Those of a CSVLogger's metrics.csv."""
    with file.open(newline="") as rows:
        return _in_rows(csv.DictReader(rows), "step")


def in_wandb(file: Path) -> Points:
    """Those of a WandbLogger's run, by the step that Lightning gave. W&B writes for a moment after the run's end."""
    until(lambda: any(each.HasField("exit") for each in records(file)), 20, f"the end in {file}")
    step = "trainer/global_step"
    rows = [row for row in history(file) if step in row and not any(name.endswith("._type") for name in row)]
    return _in_rows(
        [{name: value for name, value in row.items() if isinstance(value, int | float)} for row in rows], step
    )


def in_mlflow(database: Path, run_id: str = "") -> Points:
    """Those of an MLflow store with one run; or of the run that has this id of ours."""
    found: Points = {}
    of_run = "WHERE run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'tracelet.run_id' AND value = :run)"
    query = f"SELECT key, step, value FROM metrics {of_run if run_id else ''} ORDER BY rowid"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)) as db:
        for name, step, value in db.execute(query, {"run": run_id} if run_id else {}):
            found.setdefault(name, []).append((step, value))
    return found


def _in_rows(rows: Iterable[dict[str, Any]], step: str) -> Points:
    found: Points = {}
    for row in rows:
        for name, value in row.items():
            if name != step and value != "" and not name.startswith("_"):
                found.setdefault(name, []).append((int(row[step]), float(value)))
    return found
