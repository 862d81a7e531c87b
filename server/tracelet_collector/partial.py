"""Content on its way into the content-addressed store: one upload's file, and what can be wrong with it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

__all__ = [
    "BLOB_MODE",
    "BlobBusy",
    "BlobDamaged",
    "NoRoom",
    "Partial",
    "full_disk_told",
    "pieces",
    "sync",
    "sync_folder",
]

BLOB_MODE: Final = 0o644  # trackers copy it with the file; the folders above are private
_SYNC_EVERY: Final = 64 * 1024 * 1024
_PIECE: Final = 1024 * 1024


class NoRoom(OSError):
    """The disk of the store is full. It is worth trying again later."""


class BlobDamaged(ValueError):
    """Content is not what it was said to be. What came of it was thrown away."""


class BlobBusy(Exception):
    """Another upload brings the same content now, or has taken this one's place."""


class Store(Protocol):
    """What an upload needs of the store."""

    changed: threading.Condition

    def leave(self, partial: Partial) -> None:
        """It is over."""

    def publish(self, draft: Path, sha256: str) -> None:
        """Give content its name, durably."""

    def check_room(self, size: int) -> None:
        """Make sure that so many bytes more may be written."""


class Partial:
    """Content that is being written. Used by one thread.

    Attributes:
        offset: bytes that are there.
        taken: another upload has taken this one's place; changed under the store's lock.
        last_progress: the monotonic time of the last write.
    """

    def __init__(self, store: Store, sha256: str, size: int, path: Path, descriptor: int) -> None:
        self.sha256 = sha256
        self.size = size
        self.offset = os.fstat(descriptor).st_size
        self.taken = False
        self.last_progress = time.monotonic()
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._synced = self.offset

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go; what was written stays for the next upload."""
        os.close(self._descriptor)
        self._store.leave(self)

    def recall(self) -> Iterator[int]:
        """Read what is there already, for the hash: to be used up before anything is written. Gives the bytes read."""
        at = 0
        for piece in pieces(self._descriptor, 0, self.offset):
            self._digest.update(piece)
            at += len(piece)
            self.last_progress = time.monotonic()
            yield at

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            BlobDamaged: it is more than was announced; everything was thrown away.
            BlobBusy: another upload has taken over.
            NoRoom, OSError: it cannot be written now.
        """
        if self.offset + len(chunk) > self.size:
            self._discard()
            raise BlobDamaged(f"more than the {self.size} bytes that were announced came")
        with self._store.changed:
            self._check_place()
            rest = memoryview(chunk)
            with full_disk_told(self._path.parent):
                while rest:
                    written = os.pwrite(self._descriptor, rest, self.offset)
                    self._digest.update(rest[:written])
                    self.offset += written
                    rest = rest[written:]
            self.last_progress = time.monotonic()
        if self.offset - self._synced >= _SYNC_EVERY:
            self._store.check_room(self.size - self.offset)
            sync(self._descriptor)  # now and then: the last one is short, and a crash costs little
            self._synced = self.offset
            self.last_progress = time.monotonic()

    def complete(self) -> None:
        """Check the content, and make it part of the store, durably.

        Raises:
            BlobDamaged: it has another hash; it was thrown away.
            BlobBusy: another upload has taken over.
            OSError: it could not be made durable; it was thrown away.
        """
        if self._digest.hexdigest() != self.sha256:
            self._discard()
            raise BlobDamaged(f"the content does not have the hash {self.sha256}")
        try:
            os.fchmod(self._descriptor, BLOB_MODE)
            sync(self._descriptor)
        except OSError:
            self._discard()  # what a failed sync left is not to be trusted, however often it is asked again
            raise
        with self._store.changed:
            self._check_place()
            self._store.publish(self._path, self.sha256)

    def _check_place(self) -> None:
        if self.taken:
            raise BlobBusy("another upload of the same content has taken over")

    def _discard(self) -> None:
        with self._store.changed:
            if not self.taken:
                self._path.unlink(missing_ok=True)
                self.taken = True  # nothing more is written to what has no name


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """A disk that fills up in the middle of a write is no other matter than one that is full before it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, NoRoom):
            raise NoRoom(errno.ENOSPC, f"the disk of {folder} is full") from error
        raise


def pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """A part of a file."""
    while start < end and (piece := os.pread(descriptor, min(_PIECE, end - start), start)):
        start += len(piece)
        yield piece


def sync(descriptor: int) -> None:
    """Make a file's content durable."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
