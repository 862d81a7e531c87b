"""A tracker that is a file, for tests of delivery: it does what it is told, and writes down who asked it for what.

A worker of the Python that `python_with_ledger` makes has it as the kind `ledger`; the test's own process knows the kind by the
fixture. Its target is a path, or `ledger://` and a path where it is to pass for a server. Beside it lie

    <path>.rules    what it does: {"kill", "hang", "break": names of metrics, "down": a message, "after": seconds, "key": the
                    only one it takes, "empty": it fails over no records, too, "slow": seconds of each call, "blind":
                    it keeps nothing}
    <path>.calls    a line for each call

It keeps a point once, however often it is given: by the record's place in the log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tracelet_collector.exporters import table
from tracelet_collector.exporters.base import Item, Memory, Outcome, Retryable, Run, Unauthorized

from tracelet.core.metrics import POINTS, Metric, Params, RunEnd

__all__ = ["ENTRY", "Ledger", "LedgerExporter", "python_with_ledger"]

ENTRY = table.Entry("tests.support.ledger", "LedgerExporter", package="tests", extra="ledger")


@dataclass(frozen=True)
class Ledger:
    """The file, as the test sees it."""

    path: Path
    server: bool = False

    @property
    def target(self) -> str:
        return f"ledger://{self.path}" if self.server else str(self.path)

    def rule(self, **rules: Any) -> None:
        """What it does from now on."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(rules))
        draft.rename(self.path.with_suffix(".rules"))

    def calls(self) -> list[dict[str, Any]]:
        """Who asked it for what, in order."""
        return _lines(self.path.with_suffix(".calls"))

    def rows(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """What it keeps."""
        found = {(row["run"], row["lsn"], row["seq"]): row for row in _lines(self.path)}
        return [row for row in found.values() if run_id in (None, row["run"])]

    def values(self, run_id: str) -> list[float]:
        """The values of a run's points, in the log's order."""
        rows = [row for row in self.rows(run_id) if "value" in row]
        return [row["value"] for row in sorted(rows, key=lambda row: (row["lsn"], row["seq"]))]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class LedgerExporter:
    """See `exporters.base.Exporter`."""

    kind: ClassVar[str] = "ledger"
    batch_points: ClassVar[int] = 1000

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Write records down, or do as the rules say."""
        ledger = Ledger(Path(run.target.removeprefix("ledger://")))
        key = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
        self._write(
            ledger.path.with_suffix(".calls"),
            [{"run": run.run_id, "items": len(items), "pid": os.getpid(), "key": key, "at": time.monotonic()}],
        )
        try:
            rules = json.loads(ledger.path.with_suffix(".rules").read_text())
        except FileNotFoundError:
            rules = {}
        if rules.get("key", key) != key:
            raise Unauthorized("the key is refused")
        if "down" in rules:
            raise Retryable(rules["down"], rules.get("after"))
        time.sleep(rules.get("slow", 0))
        if rules.get("empty"):
            os.abort()
        rows = []
        for item in () if rules.get("blind") else items:
            name = _name(item)
            if name in rules.get("kill", ()):
                os.kill(os.getpid(), signal.SIGKILL)
            if name in rules.get("hang", ()):
                time.sleep(1000)
            if name in rules.get("break", ()):
                raise KeyError(name)
            row = {"run": run.run_id, "lsn": item.lsn, "seq": item.seq, "name": name}
            rows.append(row | ({"value": item.record.value} if isinstance(item.record, Metric) else {}))
        self._write(ledger.path, rows)
        return Outcome(sum(isinstance(item.record, POINTS) for item in items), state=dict(state))

    @staticmethod
    def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def holds(self) -> bool:
        return False

    def close(self) -> None:
        pass


def _name(item: Item) -> str:
    match item.record:
        case Metric(name=name):
            return name
        case Params(values=values):
            return next(iter(values), "params")
        case RunEnd(status=status):
            return str(status)
        case other:
            return type(other).__name__


def python_with_ledger(folder: Path) -> Path:
    """A Python whose workers have the kind `ledger`, and nothing that is slow to import."""
    import google.protobuf

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=180)
    (packages,) = folder.glob("lib/python*/site-packages")
    root = Path(__file__).parents[2]
    (packages / "tracelet.pth").write_text(f"{root}\n{root / 'server'}\nimport tests.support.ledger_kind\n")
    (packages / "google").symlink_to(Path(google.protobuf.__file__).parents[1])
    return folder / "bin" / "python"
