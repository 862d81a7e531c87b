"""Where spools go that cannot be read: aside, into `spool-damaged`, whole, with a line in the journal."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tracelet.spoolfile import SpoolDirectory

__all__ = ["put_aside", "put_aside_whole", "strangers"]

_OWN: Final = frozenset({"lock", "spool.json", "spool.json.new", "blobs"})
_log = logging.getLogger(__name__)


def strangers(spool: SpoolDirectory) -> list[Path]:
    """What lies in a spool's folder and is no part of a spool."""
    segments = {path for _, path in spool.segments() if path.is_file()}
    return sorted(path for path in spool.path.iterdir() if path.name not in _OWN and path not in segments)


def put_aside_whole(home: Path, spool: SpoolDirectory, problem: str) -> None:
    """Move a spool that cannot be adopted out of the way.

    Raises:
        OSError: it cannot be moved.
    """
    there = _free_name(_folder(home), spool)
    spool.path.rename(there)
    _log.error(
        "a spool cannot be adopted and is put aside: %s",
        problem,
        extra={"spool": str(spool.path), "kept_in": str(there)},
    )
    try:
        spool.path.parent.rmdir()
    except OSError:
        return  # other writers of the run have spools there


def put_aside(home: Path, spool: SpoolDirectory, paths: Iterable[Path]) -> None:
    """Move files that are no part of a spool out of its folder.

    Raises:
        OSError: they cannot be moved.
    """
    there = _free_name(_folder(home), spool)
    there.mkdir(mode=0o700)
    for path in paths:
        path.rename(there / path.name)
    _log.error("a spool had foreign files; they are put aside", extra={"spool": str(spool.path), "kept_in": str(there)})


def _folder(home: Path) -> Path:
    folder = home / "spool-damaged"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _free_name(folder: Path, spool: SpoolDirectory) -> Path:
    name = f"{spool.path.parent.name}-{spool.path.name}"
    tries = (folder / (f"{name}-{number}" if number else name) for number in range(10_000))
    return next(path for path in tries if not path.exists())
