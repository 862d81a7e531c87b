"""The code blocks of the documents in this folder: which there are, and running one as its reader would."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

__all__ = [
    "FOLDER",
    "Block",
    "Ran",
    "Repair",
    "block",
    "blocks",
    "check_blocks",
    "check_tests",
    "execute",
    "run",
    "run_inside",
]

HERE = Path(__file__).parent
FOLDER = HERE / "002"


@dataclass(frozen=True)
class Repair:
    """What differs from the document: a text that a block has once, and what stands there instead."""

    old: str
    new: str
    why: str


@dataclass(frozen=True)
class Block:
    """A code block, as the document has it.

    Attributes:
        folder: the document's.
        file: its name in the folder.
        section: the document's headings above it.
        sha256: of the file. What formatters make of a block is not the block.
        expects: what has to arrive, in words.
        given: code that makes the names which a fragment leaves to its reader.
        renamed: the package that the document imports, and the one that is imported instead.
        repairs: what else is changed before it runs, in this order.
        tests: those that run it, as names in the document's test file.
        reason: why there is none.
    """

    folder: Path
    file: str
    section: str
    sha256: str
    expects: str
    given: str = ""
    renamed: tuple[str, str] | None = None
    repairs: tuple[Repair, ...] = ()
    tests: tuple[str, ...] = ()
    reason: str = ""

    @property
    def path(self) -> Path:
        return self.folder / self.file

    def text(self) -> str:
        """The block as it runs."""
        text = self.path.read_text()
        if self.renamed:
            text = text.replace(f"from {self.renamed[0]} import ", f"from {self.renamed[1]} import ")
        for repair in self.repairs:
            assert text.count(repair.old) == 1, f"{self.file} has {text.count(repair.old)} of {repair.old!r}"
            text = text.replace(repair.old, repair.new)
        return text


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
        """How many points each metric of the script's has in MLflow; beside them are what its optimizers leave."""
        found: dict[str, int] = {}
        for point in self.store.points():
            if not point.key.startswith("optim/"):
                found[point.key] = found.get(point.key, 0) + 1
        return found


def blocks(folder: Path = FOLDER) -> list[Block]:
    """A document's table."""
    table = tomllib.loads((folder / "table.toml").read_text())
    renamed = tuple(table["renamed"]) if "renamed" in table else None
    return [
        Block(
            folder=folder,
            renamed=renamed,
            **{
                **row,
                "repairs": tuple(Repair(*each) for each in row.get("repairs", ())),
                "tests": tuple(row.get("tests", ())),
            },
        )
        for row in table["block"]
    ]


def block(number: int, folder: Path = FOLDER) -> Block:
    """The block with a number, as the document counts."""
    (found,) = (each for each in blocks(folder) if each.file.startswith(f"block_{number:02}_"))
    return found


def check_blocks(folder: Path, number: int) -> None:
    """Every block of a document is in its table, as the document has it."""
    table = blocks(folder)
    assert [each.file for each in table] == sorted(path.name for path in folder.glob("block_*"))
    assert len(table) == number
    found = {each.file: hashlib.sha256(each.path.read_bytes()).hexdigest() for each in table}
    assert found == {each.file: each.sha256 for each in table}


def check_tests(folder: Path, names: Mapping[str, Any]) -> None:
    """Every block has a test among a module's names, or a reason why there is none."""
    for each in blocks(folder):
        assert bool(each.tests) != bool(each.reason), each.file
        assert each.expects, each.file
        assert all(repair.why for repair in each.repairs), each.file
        for name in each.tests:
            assert callable(names.get(name)), f"{each.file}: there is no {name}"


def execute(
    source: Block,
    folder: Path,
    *,
    before: str = "",
    after: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = 200.0,
    command: Sequence[str] = (sys.executable,),
) -> subprocess.CompletedProcess[str]:
    """Run a block in a process of its own, which has to end well.

    The block is executed as the process's `__main__`, so that a spawned child finds its functions, and inspect its source.

    Args:
        source: the block.
        folder: the working directory.
        before: code above it, behind what the block is given anyway.
        after: code below it.
        environment: more variables.
        seconds: the process's deadline.
        command: what runs the script.
    """
    path = source.path
    if source.renamed or source.repairs:
        path = folder / source.file
        path.write_text(source.text())
    script = folder / "script.py"
    script.write_text(
        f"{source.given}\n{before}\n"
        f"with open({str(path)!r}) as _block:\n"
        f"    exec(compile(_block.read(), {str(path)!r}, 'exec'))\n"
        f"{after}\n"
    )
    done = subprocess.run(
        [*command, script.name],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run(
    number: int,
    spine: Spine,
    *,
    before: str = "",
    after: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = 200.0,
) -> Ran:
    """Run a block of document 002 verbatim, and wait until MLflow has everything.

    Args:
        number: which.
        spine: home and store.
        before: as `execute` has it, and the rest too.
    """
    done = execute(
        block(number),
        spine.folder,
        before=before,
        after=after,
        environment={**spine.environment, **(environment or {})},
        seconds=seconds,
    )
    spine.settle()
    return Ran(MlflowStore(spine.database), spine.folder, done.stdout, done.stderr)


def run_inside(source: Block, text: str | None = None) -> dict[str, Any]:
    """Run a block in this process, with what it is given: for one that leaves nothing behind.

    Args:
        source: the block.
        text: what runs in its place.

    Returns:
        The names that there are then.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source.given, f"given to {source.file}", "exec"), names)
    exec(compile(source.text() if text is None else text, str(source.path), "exec"), names)
    return names
