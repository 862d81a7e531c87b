"""The blobs of a spool, as its writer sees them: content that is too large for slots, a file each, named by its hash.

A file is whole before the record that names it is put, so it outlives the process just as the record does. Several records may
name one file; it goes when the last of them is durable in the collector's log. Any thread may keep content, one lets go of it.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

__all__ = ["Blobs", "Draft", "write_all"]

_WAIT: Final = 1.0
_POLL: Final = 0.001
_RESERVED: Final = 100  # the hundredth part of the disk that copies leave free: the script's own checkpoints need room


class Draft:
    """A file that is being written, and has no name yet.

    Attributes:
        path: where it is.
        descriptor: open for reading and writing; somebody else closes it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor


class Blobs:
    """The folder of a spool's blobs.

    No lock: whoever keeps content counts a record first and looks then whether the file is about to go; whoever lets go says
    first that it is, and looks then at the count. So one of them sees the other.

    Args:
        folder: made with the first blob.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[str, list[None]] = {}
        self._going: dict[str, None] = {}
        self._drafts = count()
        self._given_back: deque[str] = deque()

    def path(self, sha256: str) -> Path:
        """Where the content with a hash is."""
        return self._folder / sha256

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A file to write content to; removed at the end, unless it was kept.

        Raises:
            OSError: the folder or the file cannot be made.
        """
        path = self._folder / f"{next(self._drafts)}-{os.urandom(4).hex()}.draft"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        try:
            yield Draft(path, descriptor)
        finally:
            os.close(descriptor)
            with suppress(OSError):  # gone with the spool
                path.unlink(missing_ok=True)

    def need(self, size: int) -> None:
        """See that there is room for a copy.

        Raises:
            OSError: it would fill the disk.
        """
        disk = os.statvfs(self._folder)
        if size > (disk.f_bavail - disk.f_blocks // _RESERVED) * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def keep(self, sha256: str, draft: Draft) -> None:
        """A record will name this content.

        Args:
            sha256: its hash.
            draft: it is whole.

        Raises:
            OSError: the folder is gone.
        """
        self._count(sha256)
        try:
            draft.path.rename(self.path(sha256))  # over an equal one, if there is one
        except OSError:
            self._records[sha256].pop()
            raise

    def keep_bytes(self, sha256: str, content: bytes) -> None:
        """Like `keep`, of content in memory.

        Raises:
            OSError: there is no room, or the folder is gone.
        """
        self._count(sha256)
        try:
            if not self.path(sha256).exists():
                with self.draft() as draft:
                    write_all(draft.descriptor, content)
                    draft.path.rename(self.path(sha256))
        except OSError:
            self._records[sha256].pop()
            raise

    def _count(self, sha256: str) -> None:
        while True:
            records = self._records.setdefault(sha256, [])
            records.append(None)
            until = time.monotonic() + _WAIT
            while sha256 in self._going and time.monotonic() < until:
                time.sleep(_POLL)
            if self._records.get(sha256) is records:
                return

    def give_back(self, sha256: str) -> None:
        """A record that was to name this content could not be put. The file goes with the next `sweep`."""
        self._given_back.append(sha256)

    def sweep(self) -> None:
        """Let go of what was given back. Called by the thread that calls `let_go`."""
        while self._given_back:
            self.let_go(self._given_back.popleft())

    def let_go(self, sha256: str) -> None:
        """A record that names this content is durable in the collector's log. Called by one thread."""
        records = self._records.get(sha256)
        if not records:
            return
        records.pop()
        if records:
            return
        self._going[sha256] = None
        try:
            if not records:
                self._records.pop(sha256, None)
                with suppress(OSError):  # it stays until the spool goes
                    self.path(sha256).unlink(missing_ok=True)
        finally:
            del self._going[sha256]


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of it.

    Raises:
        OSError: there is no room.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
