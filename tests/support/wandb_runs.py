"""What is in the folders of offline W&B runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet_collector.exporters.wandb import WandbExporter
from tracelet_collector.exporters.wandb_folder import Audit

from tests.support.processes import until
from tests.support.wandb_file import history, records

__all__ = ["OfflineRuns"]

_DERIVED = ("html", "object3D", "table")  # drawn from content; the rest is content


class OfflineRuns:
    """Folders below one that is wandb's `dir`.

    Attributes:
        exporters: what writes to them in this process: wandb-core has it on disk a moment after it was given it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.exporters: list[WandbExporter] = []
        self._read = 0

    def files(self) -> list[Path]:
        """The `.wandb` files, when all that was handed over is in them."""
        for exporter in self.exporters:
            for session in list(exporter._sessions.values()):
                until(lambda session=session: _is_written(session), 20, f"all that was said to {session._at.file}")
        return sorted(self.root.glob("wandb/offline-run-*/run-*.wandb"))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all runs."""
        return [row for file in self.files() for row in history(file)]

    def states(self) -> list[str]:
        """How each run ended: its exit code, or `running`."""
        return [state(file) for file in self.files()]

    def config(self) -> dict[str, Any]:
        """The config of all runs, without what wandb and the exporter put there."""
        return {name: value for name, value in self.whole_config().items() if not name.startswith("_")}

    def whole_config(self) -> dict[str, Any]:
        """The config of all runs, when all that was told of it is in the files."""
        self._read += 1
        files = self.files()
        for session in [session for exporter in self.exporters for session in exporter._sessions.values()]:
            # What is told last is written last.
            session.tell({"_read": self._read}, None)
            file = session._at.file  # type: ignore[attr-defined]
            until(lambda file=file: config(file).get("_read") == self._read, 20, f"the config in {file}")
        found: dict[str, Any] = {}
        for file in files:
            found |= config(file)
        return found

    def tags(self) -> Mapping[str, str]:
        """The tags, as names and values."""
        told: Mapping[str, str] = self.whole_config()["_tracelet"].get("tags", {})
        return told

    def contents(self) -> list[bytes]:
        """What the files of all runs hold that is the content of records, sorted."""
        found = []
        for run in self.files():
            folder = run.parent / "files"
            for path in folder.rglob("*"):
                parts = path.relative_to(folder).parts
                if not path.is_file():
                    continue
                derived = parts[0] == "media" and parts[1] in _DERIVED
                if parts[:2] == ("media", "table"):
                    derived = path.name.endswith(".table.json")  # else what only said that it was a table
                if not derived and parts != ("config.yaml",):
                    found.append(path.read_bytes())
        return sorted(found)

    def drawn(self) -> Counter[str]:
        """How many texts, histograms, curves and tables there are."""
        found: Counter[str] = Counter()
        for file in self.files():
            metrics = config(file).get("_tracelet", {}).get("metrics", {})
            for row in history(file):
                for key in row:
                    if key.endswith("._type"):
                        kind = metrics[key.removesuffix("._type")]["type"]
                        path = row.get(key.removesuffix("_type") + "path")
                        assert path is None or (file.parent / "files" / path).is_file(), path
                        found[kind] += kind in ("text", "histogram", "pr_curve", "table")
        return +found


def _is_written(session: Any) -> bool:
    file = session._at.file
    told = {name: value for name, value in session._wandb.config._items.items() if name != "_wandb"}
    return Audit(file).advance() >= session.handed - session.base and told.items() <= config(file).items()


def config(file: Path) -> dict[str, Any]:
    """The config of a run."""
    found: dict[str, Any] = {}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            for item in (record.run.config if kind == "run" else record.config).update:
                found[item.key] = json.loads(item.value_json)
    return found


def state(file: Path) -> str:
    """How a run ended: its exit code, or `running`."""
    ends = [record.exit.exit_code for record in records(file) if record.WhichOneof("record_type") == "exit"]
    return str(ends[-1]) if ends else "running"
