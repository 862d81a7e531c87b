"""Spools of a test: a writer with nobody behind it, and what lies in a spool's files."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from tracelet.spoolfile import SpoolDirectory, SpoolInfo, SpoolItem, SpoolReader
from tracelet.transport.spool import SpoolWriter


def info(epoch: int | None = None, **writer: Any) -> SpoolInfo:
    """A spool's `spool.json`."""
    run = {"run_id": uuid.uuid4().hex, "name": "test", "project": "tests", "created": time.time(), "backends": []}
    said = {"writer_id": uuid.uuid4().hex, "epoch": epoch or time.time_ns(), "owner": True, "host": "here", "pid": 1}
    return SpoolInfo(run=run, writer=said | writer)


def writer(home: Path, cap: int | None = None, **kwargs: Any) -> SpoolWriter:
    """A writer without a sender."""
    return SpoolWriter(home, info(**kwargs), cap)


def on_disk(spool: SpoolWriter | Path) -> list[SpoolItem]:
    """What the files of a spool say, read as a collector would."""
    path = spool if isinstance(spool, Path) else spool.directory.path
    directory = SpoolDirectory(path)
    return [item for items in SpoolReader(directory, directory.info().epoch).read() for item in items]
