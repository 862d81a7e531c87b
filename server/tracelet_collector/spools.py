"""The spools of a home as the collector sees them: whose writer lives, and which are not in the log yet."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracelet.spoolfile import SpoolDirectory, SpoolInfo
from tracelet.spoolfile.directory import SPOOL_FORMAT
from tracelet.spoolfile.slots import HEADER_SIZE, SLOT_SIZE, SLOTS_PER_SEGMENT

__all__ = ["NewerSpool", "Spools", "has_committed"]

_YOUNG: Final = 5.0  # seconds in which a writer has surely locked the folder it made


class NewerSpool(ValueError):
    """A spool of a newer tracelet. It stays where it is, for a newer collector."""


class Spools:
    """The spools of one home. Thread-safe; one object for each home and process, because of how fcntl's locks work.

    Args:
        home: tracelet's home.

    Attributes:
        read_along: for spools of living writers, the first position that is not in the log.
        waiting: spools whose records are all in the log, and which stay because their writer may be started again.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._locking = threading.Lock()
        self._held: set[Path] = set()
        self._infos: dict[Path, SpoolInfo] = {}
        self.read_along: dict[Path, int] = {}
        self.waiting: set[Path] = set()

    def all(self) -> list[SpoolDirectory]:
        """All spools, oldest run first. What is remembered of others is forgotten."""
        found = list(SpoolDirectory.under(self._home))
        there = {spool.path for spool in found}
        for path in set(self._infos) - there:
            self._infos.pop(path, None)
        for path in set(self.read_along) - there:
            self.read_along.pop(path, None)
        return found

    def info(self, spool: SpoolDirectory) -> SpoolInfo:
        """What `spool.json` says.

        Raises:
            FileNotFoundError: there is none.
            NewerSpool: its format is newer than ours.
            ValueError: it is damaged, or of another format.
        """
        if (info := self._infos.get(spool.path)) is None:
            try:
                info = self._infos[spool.path] = spool.info()
            except ValueError as error:
                if _format_of(spool) > SPOOL_FORMAT:
                    raise NewerSpool(str(error)) from error
                raise
        return info

    def take(self, spool: SpoolDirectory) -> int | None:
        """Take the lock of a spool whose writer is dead.

        Returns:
            The lock's descriptor, for `free`; None: the writer lives, or somebody here has the lock.
        """
        with self._locking:
            if spool.path in self._held:
                return None
            descriptor = _lock_if_dead(spool)
            if descriptor is not None:
                self._held.add(spool.path)
            return descriptor

    def free(self, spool: SpoolDirectory, descriptor: int) -> None:
        """Let go of a lock."""
        with self._locking:
            self._held.discard(spool.path)
            os.close(descriptor)

    def pending(self, run_id: str | None = None) -> int:
        """Spools whose records are not all in the log, but for those whose living writers send by themselves."""
        return sum(self._is_pending(spool) for spool in self.all() if run_id in (None, spool.path.parent.name))

    def _is_pending(self, spool: SpoolDirectory) -> bool:
        try:
            if spool.path in self.waiting:
                return False
            with self._locking:
                if spool.path in self._held:
                    return True
                # A descriptor of our own may be closed only while nobody here holds the lock: that would drop it.
                if (descriptor := _lock_if_dead(spool)) is not None:
                    os.close(descriptor)
                    return True
            return not self.info(spool).sends and has_committed(spool, self.read_along.get(spool.path, 0))
        except FileNotFoundError:
            return False  # gone meanwhile, or just being made
        except (OSError, ValueError):
            return True


def _lock_if_dead(spool: SpoolDirectory) -> int | None:
    young = _is_young(spool.path)
    if young and not (spool.path / "spool.json").exists():
        return None  # being made: a look at the lock now could keep its writer from taking it
    descriptor = spool.lock_if_dead()
    if descriptor is None and not young and not (spool.path / "lock").exists():
        # A copy, or what is left of a spool whose removal was cut short. A writer locks before it writes anything.
        (spool.path / "lock").touch(0o600)
        descriptor = spool.lock_if_dead()
    return descriptor


def _format_of(spool: SpoolDirectory) -> int:
    try:
        said = json.loads((spool.path / "spool.json").read_text())
        return int(said["format"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _is_young(path: Path) -> bool:
    try:
        return 0 <= time.time() - path.stat().st_mtime < _YOUNG
    except FileNotFoundError:
        return True


def has_committed(spool: SpoolDirectory, position: int) -> bool:
    """Whether anything is recorded at or after a position: at it, or, from 0 on, anywhere in a segment's file."""
    number, slot = divmod(position, SLOTS_PER_SEGMENT)
    for there, path in spool.segments():
        if there < number:
            continue
        if position == 0 or there > number:
            if any(mark.strip(b"\0") for mark in _marks(path)):
                return True
        elif _mark_at(path, slot):
            return True
    return False


def _marks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(HEADER_SIZE)
            while raw := file.read(SLOT_SIZE * 4096):
                yield raw[SLOT_SIZE - 1 :: SLOT_SIZE]
    except FileNotFoundError:
        return


def _mark_at(path: Path, slot: int) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(HEADER_SIZE + (slot + 1) * SLOT_SIZE - 1)
            return file.read(1).strip(b"\0") != b""
    except FileNotFoundError:
        return False
