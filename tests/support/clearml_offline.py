"""What is in ClearML's offline sessions, read from their own files: the folder, and the zip where there is one."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Session", "sessions"]


@dataclass(frozen=True)
class Session:
    """A session's folder."""

    folder: Path

    @property
    def zip(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.zip")

    def task(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.folder / "task.json").read_text())
        return read

    def events(self, type: str | None = None) -> list[dict[str, Any]]:
        """Every event as often as it is there, in order."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [event for line in lines for event in json.loads(line)]
        return [event for event in found if type in (None, event["type"])]

    def scalars(self) -> Counter[tuple[str, float, int]]:
        """Numbers: series, value and iteration, and how often each is there."""
        return Counter(
            (f"{event['metric']}/{event['variant']}", event["value"], event["iter"])
            for event in self.events("training_stats_scalar")
        )

    def packed(self) -> dict[str, bytes]:
        """The files of the zip."""
        with zipfile.ZipFile(self.zip) as file:
            assert file.testzip() is None
            return {name: file.read(name) for name in file.namelist()}

    def unpacked(self) -> dict[str, bytes]:
        """The files of the folder."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


def sessions(folder: Path) -> list[Session]:
    """All sessions of a folder."""
    return [Session(path) for path in sorted(folder.glob("offline-*")) if path.is_dir()]
