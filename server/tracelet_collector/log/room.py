"""Room on the log's disk: a reserve to fall back on, and the mark below which nothing new is taken.

On a full disk SQLite cannot even delete a row or move a cursor. So a file of real blocks lies beside the log; giving it up
leaves room for the cursors and for copying the write-ahead log into the database. New records stop earlier, at the mark:
they are safe where they are, in their writers' spools.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

__all__ = ["RESERVE", "WATERMARK", "Room"]

RESERVE: Final = 16 * 1024 * 1024
WATERMARK: Final = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


class Room:
    """The reserve of one log.

    Args:
        path: the reserve's file.
        reserve: its bytes.
        watermark: free bytes below which nothing new is taken.
    """

    def __init__(self, path: Path, reserve: int = RESERVE, watermark: int = WATERMARK) -> None:
        self._path = path
        self._reserve = reserve
        self._watermark = watermark
        self._short = False
        self._changing = threading.Lock()
        self.restore()

    def enough(self) -> bool:
        """Whether new records may be taken. When room has come back, so does the reserve."""
        free = self._free()
        if free < self._watermark:
            if not self._short:
                self._short = True
                _log.error("the log's disk is almost full: no new records are taken", extra={"free_bytes": free})
            return False
        if self._short:
            self._short = False
            _log.info("the log's disk has room again", extra={"free_bytes": free})
        if free >= self._watermark + self._reserve and not self._path.exists():
            self.restore()
        return True

    def release(self) -> bool:
        """Give the reserve up. False: there was none."""
        with self._changing:
            try:
                self._path.unlink()
            except OSError:
                return False
        _log.warning("the log's disk is full: the reserve is given up", extra={"reserve_bytes": self._reserve})
        return True

    def restore(self) -> None:
        """Make the reserve again, if there is room for it above the mark."""
        with self._changing:
            if self._path.exists() or self._free() < self._watermark + self._reserve:
                return
            draft = self._path.with_name(self._path.name + ".new")
            try:
                _allocate(draft, self._reserve)
                draft.rename(self._path)
            except OSError as error:
                draft.unlink(missing_ok=True)
                _log.warning("the log has no reserve: %s", error)

    def _free(self) -> int:
        try:
            disk = os.statvfs(self._path.parent)
        except FileNotFoundError:
            return self._watermark  # no question of room: somebody has deleted the folder, and the log itself says so
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize


def _allocate(path: Path, size: int) -> None:
    """A file of `size` bytes that takes its blocks now."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            zeros = bytes(1024 * 1024)
            for _ in range(0, size, len(zeros)):
                os.write(descriptor, zeros)
    finally:
        os.close(descriptor)
