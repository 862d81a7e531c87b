"""The content-addressed store: what is too large for a record, kept once, under its hash.

    <root>/<first two hex digits>/<sha256>    whole, of that hash, and synced with its name
    <root>/partial/<sha256>                   what an upload has brought so far; the next one goes on from its end
    <root>/partial/<sha256>.<number>          an adoption under way

The root is <home>/log/blobs. A blob is there before the batch that names it is in the log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["BlobBusy", "BlobDamaged", "BlobStore", "NoRoom", "Partial", "blob_path"]

# Twice what the log itself leaves free: points are still taken when blobs are not.
_LEFT_FREE: Final = 32 * 1024 * 1024
_SYNC_EVERY: Final = 64 * 1024 * 1024
_PIECE: Final = 1024 * 1024
_YOUNG_SECONDS: Final = 24 * 3600.0
_OLD_SECONDS: Final = 7 * 24 * 3600.0
_STALLED_SECONDS: Final = 2.0
_PATIENCE: Final = 30.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MODE: Final = 0o644  # trackers copy it with the file; the folders above are private
_log = logging.getLogger(__name__)


def blob_path(root: Path, sha256: str) -> Path:
    """Where the content with a hash is.

    Args:
        root: the store's folder.
        sha256: 64 hex digits.
    """
    return root / sha256[:2] / sha256


class NoRoom(OSError):
    """The disk of the store is full. It is worth trying again later."""


class BlobDamaged(ValueError):
    """Content is not what it was said to be. What came of it was thrown away."""


class BlobBusy(Exception):
    """Another upload brings the same content now, or has taken this one's place."""


class BlobStore:
    """The blobs of one log. Thread-safe; one object for each store and process.

    Args:
        root: its folder; made when it is not there.
        left_free: bytes of the disk that are left to the log.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, root: Path, left_free: int = _LEFT_FREE) -> None:
        self.root = root
        self.changed = threading.Condition()
        self._left_free = left_free
        self._full = False
        self._under_way: dict[str, Partial] = {}
        self._number = itertools.count()
        self._unsynced: set[str] = set()
        self._distrusted: set[str] = set()
        self.drafts = root / "partial"
        self.drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self.drafts.iterdir():
            if not _SHA256.fullmatch(path.name):
                path.unlink(missing_ok=True)  # an adoption that was cut short: it begins anew
        self._secure()
        self._forget_old()

    def has(self, sha256: str, size: int) -> bool:
        """Whether content is here, whole and synced."""
        try:
            return blob_path(self.root, sha256).stat().st_size == size and sha256 not in self._unsynced
        except FileNotFoundError:
            return False

    def begin(self, sha256: str, size: int, patience: float = _PATIENCE) -> Partial | None:
        """Begin to write content, or go on where an earlier upload broke off.

        One upload writes at a time. It is waited for while it makes progress; one that stands still has lost its writer,
        and is taken over.

        Args:
            sha256: 64 hex digits.
            size: bytes of the whole.
            patience: seconds to wait for another upload of the same content.

        Returns:
            What is written to; None: the content is here.

        Raises:
            BlobBusy: the other upload still makes progress.
            NoRoom, OSError: it cannot be written now.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no hash")
        until = time.monotonic() + patience
        with self.changed:
            while (other := self._under_way.get(sha256)) is not None:
                now = time.monotonic()
                if (stalls_in := other.last_progress + _STALLED_SECONDS - now) <= 0:
                    other.taken = True
                    break
                if now >= until:
                    raise BlobBusy("another upload brings the same content; try again when it is through")
                self.changed.wait(min(stalls_in, until - now))
            if self.has(sha256, size):
                self._under_way.pop(sha256, None)
                self._forget(sha256)
                return None
            self._forget_old()
            return self._open(sha256, size)

    def _open(self, sha256: str, size: int) -> Partial:
        path = self.drafts / sha256
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            if os.fstat(descriptor).st_size > size:
                os.ftruncate(descriptor, 0)  # whatever it is, it is not the beginning of this
            partial = Partial(self, sha256, size, path, descriptor)
            self.check_room(size - partial.offset)
        except BaseException:
            os.close(descriptor)
            raise
        self._under_way[sha256] = partial
        return partial

    def leave(self, partial: Partial) -> None:
        """An upload is over."""
        with self.changed:
            if self._under_way.get(partial.sha256) is partial:
                del self._under_way[partial.sha256]
            self.changed.notify_all()

    def adopt(self, source: Path, sha256: str, size: int) -> None:
        """Take content that lies in a file; the file stays as it is.

        Raises:
            BlobDamaged: it is not there, or not what its name says.
            NoRoom, OSError: it cannot be stored now.
        """
        if self.has(sha256, size):
            with self.changed:
                self._forget(sha256)
            return
        draft = self.drafts / f"{sha256}.{next(self._number)}"
        try:
            try:
                if not stat.S_ISREG(source.lstat().st_mode):
                    raise BlobDamaged(f"{source} is no file")
                found = source.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                raise BlobDamaged(f"{source} is not there") from None
            if found != size:
                raise BlobDamaged(f"{source} has {found} bytes, not {size}")
            self._link_or_copy(source, draft, sha256, size)
            descriptor = os.open(draft, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                digest = hashlib.sha256()
                for piece in _pieces(descriptor, 0, size):
                    digest.update(piece)
                if digest.hexdigest() != sha256 or os.fstat(descriptor).st_size != size:
                    raise BlobDamaged(f"{source} is not what its name says")
                os.fchmod(descriptor, _MODE)
                try:
                    _sync(descriptor)
                except OSError:
                    self._distrusted.add(sha256)
                    raise
            finally:
                os.close(descriptor)
            self.publish(draft, sha256)
            with self.changed:
                self._forget(sha256)
        finally:
            draft.unlink(missing_ok=True)

    def _link_or_copy(self, source: Path, draft: Path, sha256: str, size: int) -> None:
        if sha256 not in self._distrusted:
            try:
                os.link(source, draft, follow_symlinks=False)
            except FileNotFoundError:
                raise BlobDamaged(f"{source} is not there") from None
            except OSError:
                pass  # another file system, or one without links
            else:
                return
        # After a sync that failed, the same pages would only seem to be synced the next time: they are written anew.
        self.check_room(size)
        with self.full_disk_told():
            shutil.copyfile(source, draft, follow_symlinks=False)

    def publish(self, draft: Path, sha256: str) -> None:
        """Give content that is whole and synced its name, durably."""
        path = blob_path(self.root, sha256)
        new = not path.parent.exists()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._unsynced.add(sha256)
        draft.replace(path)
        _sync_folder(path.parent)
        if new:
            _sync_folder(self.root)
            _sync_folder(self.root.parent)
        self._unsynced.discard(sha256)

    def _secure(self) -> None:
        """Names that a predecessor gave just before it was killed may not be synced."""
        young = time.time() - _YOUNG_SECONDS
        for folder in [path for path in self.root.iterdir() if path != self.drafts and path.stat().st_mtime > young]:
            _sync_folder(folder)
        _sync_folder(self.root)

    def check_room(self, size: int) -> None:
        """Make sure that so many bytes more may be written.

        Raises:
            NoRoom: they may not.
        """
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._left_free:
            if not self._full:
                self._full = True
                _log.error("the log's disk is almost full: no blobs are taken", extra={"free_bytes": free})
            raise NoRoom(
                errno.ENOSPC,
                f"the disk of {self.root} is full: it has {free} bytes free, and content of {size} bytes more is kept "
                "where it is until there is room",
            )
        if self._full:
            self._full = False
            _log.info("the log's disk has room for blobs again", extra={"free_bytes": free})

    @contextlib.contextmanager
    def full_disk_told(self) -> Iterator[None]:
        """A disk that fills up in the middle of a write is no other matter than one that is full before it."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, NoRoom):
                raise NoRoom(errno.ENOSPC, f"the disk of {self.root} is full") from error
            raise

    def _forget(self, sha256: str) -> None:
        """Remove what an upload left of content that is here now."""
        if sha256 not in self._under_way:
            (self.drafts / sha256).unlink(missing_ok=True)

    def _forget_old(self) -> None:
        """Remove what uploads left that nobody went on with."""
        for path in self.drafts.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in self._under_way and time.time() - path.stat().st_mtime > _OLD_SECONDS:
                    path.unlink()


class Partial:
    """Content that is being written. Used by one thread.

    Attributes:
        offset: bytes that are there.
        taken: another upload has taken this one's place; changed under the store's lock.
        last_progress: the monotonic time of the last write.
    """

    def __init__(self, store: BlobStore, sha256: str, size: int, path: Path, descriptor: int) -> None:
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
        for piece in _pieces(self._descriptor, 0, self.offset):
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
            with self._store.full_disk_told():
                while rest:
                    written = os.pwrite(self._descriptor, rest, self.offset)
                    self._digest.update(rest[:written])
                    self.offset += written
                    rest = rest[written:]
            self.last_progress = time.monotonic()
        if self.offset - self._synced >= _SYNC_EVERY:
            self._store.check_room(self.size - self.offset)
            _sync(self._descriptor)  # now and then: the last one is short, and a crash costs little
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
            os.fchmod(self._descriptor, _MODE)
            _sync(self._descriptor)
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


def _pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(descriptor, min(_PIECE, end - start), start)):
        start += len(piece)
        yield piece


def _sync(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
