"""The content-addressed store: what is too large for a record, kept once, under its hash.

    <root>/<first two hex digits>/<sha256>    whole, of that hash, and synced with its name
    <root>/partial/<sha256>                   what an upload has brought so far; the next one goes on from its end
    <root>/partial/<sha256>.<number>          an adoption under way

The root is <home>/log/blobs. A blob is there before the batch that names it is in the log, and goes when no batch names it any
more. Whoever is about to append a batch that names one holds it from before he looks whether it is there until the log has
answered, so that it cannot go in between.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from tracelet_collector.partial import (
    BLOB_MODE,
    BlobBusy,
    BlobDamaged,
    NoRoom,
    Partial,
    full_disk_told,
    pieces,
    sync,
    sync_folder,
)

__all__ = ["BlobStore", "blob_path"]

# Twice what the log itself leaves free: points are still taken when blobs are not.
_LEFT_FREE: Final = 32 * 1024 * 1024
_YOUNG_SECONDS: Final = 24 * 3600.0
_OLD_SECONDS: Final = 7 * 24 * 3600.0
_STALLED_SECONDS: Final = 2.0
_PATIENCE: Final = 30.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


def blob_path(root: Path, sha256: str) -> Path:
    """Where the content with a hash is.

    Args:
        root: the store's folder.
        sha256: 64 hex digits.
    """
    return root / sha256[:2] / sha256


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
        self._held: Counter[str] = Counter()
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

    def hold(self, names: Collection[str]) -> Callable[[], None]:
        """Keep content from being removed, if it is here.

        Returns:
            Lets go of it; to be called once.
        """
        with self.changed:
            self._held.update(names)

        def release() -> None:
            with self.changed:
                self._held.subtract(names)
                for sha256 in names:
                    if self._held[sha256] <= 0:
                        del self._held[sha256]

        return release

    def remove(self, sha256: str) -> bool:
        """Remove content that no batch names, durably.

        Returns:
            Whether it is not here now; False: somebody holds it.

        Raises:
            OSError: it cannot be removed.
        """
        path = blob_path(self.root, sha256)
        with self.changed:
            if sha256 in self._held:
                return False
            path.unlink(missing_ok=True)
        if path.parent.exists():
            sync_folder(path.parent)
        return True

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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, BLOB_MODE)
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
                for piece in pieces(descriptor, 0, size):
                    digest.update(piece)
                if digest.hexdigest() != sha256 or os.fstat(descriptor).st_size != size:
                    raise BlobDamaged(f"{source} is not what its name says")
                os.fchmod(descriptor, BLOB_MODE)
                try:
                    sync(descriptor)
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
        with full_disk_told(self.root):
            shutil.copyfile(source, draft, follow_symlinks=False)

    def publish(self, draft: Path, sha256: str) -> None:
        """Give content that is whole and synced its name, durably."""
        path = blob_path(self.root, sha256)
        new = not path.parent.exists()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._unsynced.add(sha256)
        draft.replace(path)
        sync_folder(path.parent)
        if new:
            sync_folder(self.root)
            sync_folder(self.root.parent)
        self._unsynced.discard(sha256)

    def _secure(self) -> None:
        """Names that a predecessor gave just before it was killed may not be synced."""
        young = time.time() - _YOUNG_SECONDS
        for folder in [path for path in self.root.iterdir() if path != self.drafts and path.stat().st_mtime > young]:
            sync_folder(folder)
        sync_folder(self.root)

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
