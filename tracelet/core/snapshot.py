"""A file as it is now, kept in the spool: by a clone where the file system can, else by a copy."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from tracelet.core.metrics import BlobRef
from tracelet.guard import say
from tracelet.transport.blobs import Blobs, Draft, write_all

__all__ = ["NoFile", "Signature", "Snapshot"]

_FICLONE: Final = 0x40049409
_SMALL: Final = 4 * 1024  # travels in its record
_CHUNK: Final = 1024 * 1024
_MOST_UNSIZED: Final = 64 * 1024 * 1024

Signature = tuple[int, int, int]


class NoFile(OSError):
    """It is a folder, a socket, a device, …."""


class Snapshot:
    """A file as it was when this was made. What happens then to its name does not matter: it is open.

    Nor does what is written into it, where the file system clones files (XFS, Btrfs, …). Elsewhere `finish` copies it, and says
    when it was changed meanwhile.

    Args:
        path: the file.
        blobs: where to.

    Attributes:
        size: bytes.
        cloned: nothing can change it any more.
        signature: tells whether the file has changed since.
        taken: wall time.

    Raises:
        NoFile: it is none.
        OSError: it cannot be read.
    """

    def __init__(self, path: str, blobs: Blobs) -> None:
        self._path = path
        self._blobs = blobs
        self._draft: Draft | None = None
        self.taken = time.time()
        self._open = ExitStack()
        try:
            # A FIFO would wait for its other end.
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._open.callback(os.close, self._file)
            found = os.fstat(self._file)
            if not stat.S_ISREG(found.st_mode):
                raise NoFile(errno.EINVAL, "it is no file")
            self.size = found.st_size
            self.signature = _signature(found)
            self.cloned = self.size > _SMALL and self._clone()
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def finish(self) -> bytes | BlobRef:
        """The content: itself, or as the spool keeps it, for one record.

        Raises:
            OSError: it cannot be read, or there is no room.
        """
        if not self.size:
            # Empty, or a file of /proc, which says so of itself.
            with open(self._file, "rb", closefd=False) as file:
                return file.read(_MOST_UNSIZED)
        if self.size <= _SMALL:
            return os.pread(self._file, self.size, 0)
        if self._draft is None:
            self._draft = self._open.enter_context(self._blobs.draft())
        if not self.cloned:
            self._blobs.need(self.size)
        sha256, size = self._copy(None if self.cloned else self._draft.descriptor)
        if not self.cloned and _signature(os.fstat(self._file)) != self.signature:
            say(f"{self._path} was written to while it was copied: the copy may be a mixture")
        self._blobs.keep(sha256, self._draft)
        return BlobRef(sha256, size, "")

    def _clone(self) -> bool:
        self._draft = self._open.enter_context(self._blobs.draft())
        try:
            fcntl.ioctl(self._draft.descriptor, _FICLONE, self._file)
        except OSError:
            return False
        self.size = os.fstat(self._draft.descriptor).st_size
        return True

    def _copy(self, into: int | None) -> tuple[str, int]:
        """Read it to where it ended, hash it, and write it if there is somewhere to."""
        assert self._draft is not None
        source = self._draft.descriptor if into is None else self._file
        digest, at, buffer = hashlib.sha256(), 0, bytearray(_CHUNK)
        while at < self.size:
            piece = memoryview(buffer)[: min(_CHUNK, self.size - at)]
            count = os.preadv(source, [piece], at)
            if not count:
                break  # cut short meanwhile
            digest.update(piece[:count])
            if into is not None:
                write_all(into, piece[:count])
            at += count
        return digest.hexdigest(), at


def _signature(found: os.stat_result) -> Signature:
    return found.st_ino, found.st_size, found.st_mtime_ns
