"""The folder of one spool: who wrote it, whether its writer lives, and its segments.

    <home>/spool/<run_id>/<writer_id>-<epoch>/
        spool.json      SpoolInfo; there before the first segment
        lock            locked (fcntl) by the writer for as long as its process lives
        00000000-<random>.seg, 00000001-<random>.seg, …
        blobs/<sha256>  content of records that is too large for them; whole before the record is written

A record lock of fcntl says whether the writer lives: it ends with its process, is not inherited by a fork, and does not
depend on process ids. A process can lock its own file again, and closing any descriptor of the file drops the lock: so a
writer holds one descriptor, and nobody probes inside the writer's own process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["SPOOL_FORMAT", "SpoolDirectory", "SpoolInfo"]

SPOOL_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class SpoolInfo:
    """What `spool.json` says.

    Attributes:
        run: the fields of the wire's RunSpec.
        writer: the fields of the wire's WriterSpec.
        sends: the writer has a sender of its own; without one (a forked child) the collector reads along.
        format: version of the spool's format.
    """

    run: Mapping[str, Any]
    writer: Mapping[str, Any]
    sends: bool = True
    format: int = field(default=SPOOL_FORMAT)

    @property
    def epoch(self) -> int:
        """The stream's epoch."""
        return int(self.writer["epoch"])


class SpoolDirectory:
    """A spool's folder, by path. Holds no descriptor but the writer's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def under(home: Path) -> Iterator[SpoolDirectory]:
        """All spools of a home, oldest run folder first."""
        root = home / "spool"
        try:
            runs = sorted(root.iterdir())
        except FileNotFoundError:
            return
        for run in runs:
            try:
                yield from (SpoolDirectory(path) for path in sorted(run.iterdir()) if path.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                continue

    @staticmethod
    def create(home: Path, info: SpoolInfo) -> tuple[SpoolDirectory, int]:
        """Make the folder, lock it, and write `spool.json`.

        Returns:
            The folder and the lock's descriptor. Closing it, or ending the process, frees the lock.
        """
        writer = info.writer
        path = home / "spool" / str(info.run["run_id"]) / f"{writer['writer_id']}-{writer['epoch']}"
        path.mkdir(parents=True, mode=0o700)
        spool = SpoolDirectory(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft = path / "spool.json.new"
            draft.write_text(json.dumps(asdict(info)))
            draft.rename(path / "spool.json")
        except BaseException:
            os.close(lock)
            raise
        return spool, lock

    def info(self) -> SpoolInfo:
        """Read `spool.json`.

        Raises:
            FileNotFoundError: there is none (the writer died before it, so nothing was recorded).
            ValueError: it is damaged, or of another format.
        """
        raw = json.loads((self.path / "spool.json").read_text())
        if not isinstance(raw, dict) or raw.get("format") != SPOOL_FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else "unknown"
            raise ValueError(f"{self.path} has spool format {found}; this tracelet reads {SPOOL_FORMAT}")
        try:
            info = SpoolInfo(raw["run"], raw["writer"], bool(raw["sends"]))
            str(info.run["run_id"]), str(info.writer["writer_id"]), info.epoch
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path}/spool.json is damaged: {error!r}") from error
        return info

    def lock_if_dead(self) -> int | None:
        """Take the lock if the writer is gone. Never call this in the writer's own process.

        Returns:
            The lock's descriptor, to be closed by the caller, or None: the writer lives.
        """
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def segments(self) -> list[tuple[int, Path]]:
        """Numbers and paths of the segment files, by number. Two files may share a number: see `SpoolReader`."""
        found = []
        for path in self.path.glob("*.seg"):
            number = path.name.split("-")[0].split(".")[0]
            if number.isdigit():
                found.append((int(number), path))
        return sorted(found)

    def segment_path(self, number: int, suffix: str) -> Path:
        """Where segment `number` of a writer lies; `suffix` keeps two threads that make the same one apart."""
        return self.path / f"{number:08d}-{suffix}.seg"

    @property
    def blobs(self) -> Path:
        """The folder of the blobs; made with the first of them."""
        return self.path / "blobs"

    def remove(self) -> None:
        """Delete the spool and, when it was the last of its run, the run's folder.

        `spool.json` goes last: should this be cut short, whoever finds the rest still knows whose it is.
        """
        for path in sorted(self.path.iterdir(), key=lambda path: path.name == "spool.json"):
            if path == self.blobs:
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.path.rmdir()
        try:
            self.path.parent.rmdir()
        except OSError:
            return  # other writers of the run have spools there
