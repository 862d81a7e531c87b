"""A run to three trackers at once, on this machine: MLflow, W&B and ClearML offline, and what is in each."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import until
from tests.support.spine import Spine
from tests.support.wandb_file import history
from tracelet.errors import CollectorError
from tracelet.transport import local
from tracelet.transport.wait import status

__all__ = ["KINDS", "Trackers", "clearml_events", "wandb_rows"]

KINDS = ("mlflow", "wandb", "clearml")
Counted = Counter[tuple[int, float]]


@dataclass(frozen=True)
class Trackers(Spine):
    """A home, and three trackers that runs of its go to."""

    @property
    def environment(self) -> dict[str, str]:
        """What a script needs to find them."""
        return {
            **super().environment,
            "TRACELET_BACKEND": ",".join(KINDS),
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(self.folder),
            "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CACHE_DIR": str(self.folder / "clearml"),
        }

    def in_wandb(self, key: str = "train/loss") -> Counted:
        """Points of a metric in W&B's folders: how often each (step, value) is there."""
        return Counter((row["global_step"], row[key]) for row in wandb_rows(self.folder / "wandb") if key in row)

    def in_clearml(self, title: str = "train", series: str = "loss") -> Counted:
        """Points of a metric in ClearML's sessions."""
        return Counter(
            (event["iter"], event["value"])
            for event in clearml_events(self.folder / "clearml")
            if event["type"] == "training_stats_scalar" and (event["metric"], event["variant"]) == (title, series)
        )

    def counts(self) -> dict[str, Counted]:
        """Points of `train/loss` in each."""
        return {"mlflow": self.stored(), "wandb": self.in_wandb(), "clearml": self.in_clearml()}

    def worker(self, kind: str) -> int:
        """The process that delivers to a tracker; -1 when all is delivered, after which there may be none."""

        def found() -> int:
            try:
                reply = status(local.ensure(self.home, 60.0).address, timeout=5.0)
            except CollectorError:
                return 0  # the address was that of one that was killed a moment ago
            mine = [b for run in reply.runs for b in run.backends if b.kind == kind]
            return next((b.worker_pid for b in mine if b.worker_pid), -1 if all(b.settled for b in mine) else 0)

        return until(found, 90, f"a worker of {kind}")

    def kill(self, pid: int) -> None:
        """Signal 9 to a process that may have ended by itself."""
        try:
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all offline runs, drafts left out."""
    files = sorted(folder.glob("offline-run-*/run-*.wandb"))
    return [row for file in files for row in history(file)]


def clearml_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of all offline sessions: one is a zip when it is closed, a folder before."""
    sessions = {path.name.removesuffix(".zip"): path for path in sorted((folder / "offline").glob("offline-*"))}
    for path in sessions.values():
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as file:
                lines = file.read("metrics.jsonl").decode() if "metrics.jsonl" in file.namelist() else ""
        else:
            found = path / "metrics.jsonl"
            lines = found.read_text() if found.exists() else ""
        for line in lines.splitlines():
            yield from json.loads(line)
