"""The code blocks of the documents in this folder: which there are, and running one as its reader would."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tomllib

from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

__all__ = ["FOLDER", "Block", "Ran", "block", "blocks", "run"]

FOLDER = Path(__file__).parent / "002"


@dataclass(frozen=True)
class Block:
    """A code block, as the document has it.

    Attributes:
        file: its name in the folder.
        section: the document's headings above it.
        sha256: of the file. What formatters make of a block is not the block.
        expects: what has to arrive, in words.
        given: code that makes the names which a fragment leaves to its reader.
        tests: those that run it, as names in test_002.py.
        reason: why there is none.
    """

    file: str
    section: str
    sha256: str
    expects: str
    given: str = ""
    tests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def path(self) -> Path:
        return FOLDER / self.file


@dataclass(frozen=True)
class Ran:
    """A block that has run, and whose points are delivered.

    Attributes:
        store: what MLflow has.
        folder: its working directory.
    """

    store: MlflowStore
    folder: Path
    stdout: str
    stderr: str

    def points(self, key: str) -> list[tuple[int, float]]:
        """Steps and values of a metric in MLflow, by step."""
        return sorted((point.step, point.value) for point in self.store.points(key))

    def points_of(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Those of one run, by our id."""
        query = (
            "SELECT m.step, m.value FROM metrics m JOIN tags t USING (run_uuid) "
            "WHERE t.key = 'tracelet.run_id' AND t.value = ? AND m.key = ? ORDER BY m.step"
        )
        with closing(sqlite3.connect(f"{self.store.path.as_uri()}?mode=ro", uri=True, timeout=20)) as db:
            return db.execute(query, (run_id, key)).fetchall()

    def counts(self) -> dict[str, int]:
        """How many points each metric has in MLflow."""
        found: dict[str, int] = {}
        for point in self.store.points():
            found[point.key] = found.get(point.key, 0) + 1
        return found


def blocks() -> list[Block]:
    """The table."""
    rows = tomllib.loads((FOLDER / "table.toml").read_text())["block"]
    return [Block(**{**row, "tests": tuple(row.get("tests", ()))}) for row in rows]


def block(number: int) -> Block:
    """The block with a number, as the document counts."""
    (found,) = (each for each in blocks() if each.file.startswith(f"block_{number:02}_"))
    return found


def run(
    number: int,
    spine: Spine,
    *,
    before: str = "",
    after: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = 200.0,
) -> Ran:
    """Run a block verbatim in a process of its own, and wait until MLflow has everything.

    The block is executed as the process's `__main__`, so that a spawned child finds its functions, and inspect its source.

    Args:
        number: which.
        spine: home and store.
        before: code above it, behind what the block is given anyway.
        after: code below it.
        environment: more variables.
        seconds: the process's deadline.
    """
    source = block(number)
    script = spine.folder / "script.py"
    script.write_text(
        f"{source.given}\n{before}\n"
        f"with open({str(source.path)!r}) as _block:\n"
        f"    exec(compile(_block.read(), {str(source.path)!r}, 'exec'))\n"
        f"{after}\n"
    )
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=spine.folder,
        env={**os.environ, **spine.environment, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    spine.settle()
    return Ran(MlflowStore(spine.database), spine.folder, done.stdout, done.stderr)
