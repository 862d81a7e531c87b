"""Reads back from the spools of a home what was recorded, as the collector would."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from tracelet.core.metrics import Metric, Record
from tracelet.proto import codec
from tracelet.spoolfile import SpoolDirectory, SpoolReader

__all__ = ["points", "records", "records_of", "streams"]

R = TypeVar("R")


def streams(home: Path, run_id: str | None = None) -> list[list[Record]]:
    """The records of each spool, oldest stream first; of one run, or of all."""
    found = []
    for directory in SpoolDirectory.under(home):
        info = directory.info()
        if run_id is None or info.run["run_id"] == run_id:
            found.append((info.epoch, directory))
    return [_read(directory, epoch) for epoch, directory in sorted(found, key=lambda pair: pair[0])]


def records(home: Path, run_id: str | None = None) -> list[Record]:
    """All records, in their order within each stream."""
    return [record for stream in streams(home, run_id) for record in stream]


def records_of(kind: type[R], home: Path, run_id: str | None = None) -> list[R]:
    """All records of a kind."""
    return [record for record in records(home, run_id) if isinstance(record, kind)]


def points(home: Path, run_id: str | None = None) -> list[Metric]:
    """All points."""
    return records_of(Metric, home, run_id)


def _read(directory: SpoolDirectory, epoch: int) -> list[Record]:
    names: dict[int, object] = {}
    items = [item for chunk in SpoolReader(directory, epoch).read() for item in chunk]
    found: list[Record] = []
    for batch in codec.encode(items):
        codec.validate(batch, names)
        found += [record for _, record in codec.decode(batch, names)]  # type: ignore[arg-type]
    return found
