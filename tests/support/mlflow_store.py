"""MLflow SQLite stores for tests: copies of one template, read back with sqlite3.

MLflow takes 3-7 s to make an empty store, so one is made per machine and MLflow version, whichever test process comes first.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["MlflowStore", "Stored"]


@dataclass(frozen=True)
class Stored:
    """A row of MLflow's table of metrics. `value` is NaN where MLflow says so."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class MlflowStore:
    """A store in a folder of its own."""

    path: Path

    @classmethod
    def fresh(cls, folder: Path) -> MlflowStore:
        """A store as `MlflowClient` makes it, with nothing in it but the default experiment."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "mlflow.db"
        draft = folder / ".mlflow.db.copy"
        shutil.copyfile(_template(), draft)
        with closing(sqlite3.connect(draft)) as db, db:
            db.execute("UPDATE experiments SET artifact_location = ?", (str(folder / "mlruns" / "0"),))
        draft.rename(path)
        return cls(path)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def _all(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=60)) as db:
            return db.execute(query, arguments).fetchall()

    def points(self, key: str | None = None) -> list[Stored]:
        """Every stored metric row but those of `.meta/` fields, in the order they were stored."""
        return [point for point in self.all_points(key) if ".meta/" not in point.key]

    def all_points(self, key: str | None = None) -> list[Stored]:
        """Every stored metric row, in the order they were stored."""
        rows = self._all("SELECT key, value, is_nan, timestamp, step FROM metrics ORDER BY rowid")
        found = [Stored(k, math.nan if is_nan else value, time, step) for k, value, is_nan, time, step in rows]
        return [point for point in found if key is None or point.key == key]

    def count(self) -> int:
        """How many metric rows there are."""
        return int(self._all("SELECT count(*) FROM metrics")[0][0]) if self.path.exists() else 0

    def keys(self) -> set[str]:
        return {point.key for point in self.points()}

    def runs(self) -> list[dict[str, Any]]:
        """All runs: id, name, status, start, end, experiment."""
        columns = ("id", "name", "status", "start", "end", "experiment")
        rows = self._all(
            "SELECT run_uuid, r.name, status, start_time, end_time, e.name FROM runs r JOIN experiments e USING (experiment_id)"
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def run(self) -> dict[str, Any]:
        """The only run."""
        (run,) = self.runs()
        return run

    def tags(self) -> dict[str, str]:
        """Tags of all runs."""
        return dict(self._all("SELECT key, value FROM tags"))

    def params(self) -> dict[str, str]:
        """Params of all runs."""
        return dict(self._all("SELECT key, value FROM params"))

    def experiments(self) -> dict[str, str]:
        """Name to artifact location."""
        return dict(self._all("SELECT name, artifact_location FROM experiments"))

    def artifacts(self) -> Path:
        """The folder of the only run's artifacts."""
        ((uri,),) = self._all("SELECT artifact_uri FROM runs")
        return Path(uri.removeprefix("file://"))

    def tag_json(self, key: str) -> Any:
        return json.loads(self.tags()[key])


def _template() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tracelet-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    template = folder / f"mlflow-{version('mlflow')}.db"
    with (folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        "import mlflow; mlflow.MlflowClient('sqlite:///mlflow.db').search_experiments()",
                    ],
                    cwd=scratch,
                    check=True,
                    capture_output=True,
                    timeout=240,
                    env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                )
                (Path(scratch) / "mlflow.db").rename(template)
    return template
