"""The log's one write connection: its transactions, its checkpoints, and the way back after a commit that failed.

An error in a commit may be a failed fsync, and after one the kernel has forgotten which pages never reached the disk: a
later fsync of the same file succeeds although they are lost. They lie in the write-ahead log, perhaps on the page that also
holds the end of what was acked before. A successor process is no better off: it reads the write-ahead log from the page
cache, takes it for durable, and acks what is in it. Nor does a checkpoint help by itself, not even the one of a closing
connection: it brings the database file to where the page cache is, the disk's write-ahead log still ends earlier, and after a
power cut its older pages are laid over the newer ones.

So after any error, and whenever a log is opened, nothing is acked, checkpointed or closed before the write-ahead log is
secured: its bytes are written again in place, as the page cache has them, which makes the pages dirty again, and synced on a
new descriptor. Then a new connection brings everything into the database file and begins an empty write-ahead log. While any
of this fails, so does every write, and the next one tries again.

A full disk is another matter: SQLite hears of it before it syncs anything, and rolls back. So is a file that somebody deletes:
its connection would go on writing, and syncing, what nobody will ever read. Each transaction looks whether it is still there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from tracelet_collector.log.base import LogFailed
from tracelet_collector.log.room import Room
from tracelet_collector.log.schema import open_writer, remedy

__all__ = ["DiskFull", "WriteHandle"]

_CHECKPOINT_AT: Final = 4 * 1024 * 1024
_BOUND: Final = 16 * 1024 * 1024  # not above the reserve: on a full disk it must take what the write-ahead log holds
_PAGE: Final = 4096
_PIECE: Final = 1024 * 1024
_WAIT: Final = 60.0
_log = logging.getLogger(__name__)


class DiskFull(LogFailed):
    """There was no room for a transaction. The handle is as good as before."""


class WriteHandle:
    """The write connection and its checkpoints.

    Args:
        path: the database.
        room: the reserve on its disk.

    Attributes:
        lock: held around `transaction`, and around whatever belongs together with it.
        generation: grows when the connection was given up: what was remembered of the database must be read again.
        suspect: nothing can be acked until the write-ahead log is secured.

    Raises:
        SchemaMismatch: the file is a log of another version, or no log.
        LogFailed: it could not be opened, or what it holds could not be made durable.
    """

    def __init__(self, path: Path, room: Room) -> None:
        self.lock = threading.Lock()
        self.generation = 0
        self.suspect = True
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._room = room
        self._db: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None  # device and inode of the file that is open
        self._closed = False
        # The write-ahead log, roughly: its bytes, and how many of them are in the database file.
        self._length = self._copied = 0
        self._due = threading.Event()
        with self.lock:
            self._open()
        self._thread = threading.Thread(target=self._checkpoints, name="log-checkpoint", daemon=True)
        self._thread.start()

    @property
    def removed(self) -> bool:
        """Somebody has deleted or exchanged the file: what is written to the connection is lost."""
        return self._place is not None and self._place != _place_of(self._path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; the caller holds `lock`.

        Raises:
            DiskFull: nothing of it counts.
            LogFailed: nothing of it counts, and the connection was given up.
        """
        db = self._open()
        try:
            if self._length > _BOUND:
                self._catch_up(db)
            db.execute("BEGIN IMMEDIATE")
            yield db
            self._check_place()
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if _is_full(error) and _rolled_back(db):
                raise DiskFull(f"the disk of {self._path} is full") from error
            self._give_up(error)
            raise LogFailed(f"{self._path} could not be written: {error}{remedy(self._path, error)}") from error
        except BaseException:
            if not _rolled_back(db):
                self._give_up(None)
            raise

    def written(self, payload_bytes: int) -> None:
        """Tell the checkpoints how much a transaction added."""
        self._length += payload_bytes + 8 * _PAGE
        if self._length - self._copied >= _CHECKPOINT_AT:
            self._due.set()

    def checkpoint_soon(self) -> None:
        """Have what is committed copied into the database file, which is cut to its length then."""
        self._due.set()

    def close(self) -> None:
        """Stop the checkpoints and close the connection. When the log is not secured, it is left to the process's end."""
        self._closed = True
        self._due.set()
        self._thread.join(_WAIT)
        with self.lock:
            if self._db is None:
                return
            try:
                if self.suspect:
                    _write_again(self._wal)
            except OSError as error:
                _log.error("the log cannot be secured: %s", error, extra={"path": str(self._path)})
            else:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one, and everything acked made durable first, when there is none that can be trusted."""
        if self._closed:
            raise LogFailed(f"{self._path} is closed")
        self._check_place()
        if self._db is None or self.suspect:
            try:
                _write_again(self._wal)
                if self._db is not None:
                    self._db.close()
                    self._db = None
                self._db = open_writer(self._path)
                self._truncate(self._db)
                self._place = _place_of(self._path)
            except (sqlite3.Error, OSError) as error:
                raise LogFailed(
                    f"what {self._path} holds could not be made durable: {error}{remedy(self._path, error)}"
                ) from error
            if self.generation:
                _log.info("the log works again", extra={"path": str(self._path)})
            self.suspect = False
        return self._db

    def _check_place(self) -> None:
        if self.removed:
            raise LogFailed(
                f"somebody has deleted {self._path} while the collector runs: nothing more is taken; the next collector begins "
                "a new log"
            )

    def _give_up(self, error: sqlite3.Error | None) -> None:
        _log.error("the log's connection is given up: %s", error or "no rollback", extra={"path": str(self._path)})
        self.suspect = True
        self.generation += 1

    def _catch_up(self, db: sqlite3.Connection) -> None:
        """The checkpoints beside the writer never reach its end: the writer waits for one. Should it fail, another will do."""
        try:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if not _is_full(error):
                raise
        self._length = self._copied = 0

    def _truncate(self, db: sqlite3.Connection) -> None:
        """Bring everything into the database file, synced. On a full disk it stays where it is secured.

        Raises:
            sqlite3.Error: not everything is there.
        """
        try:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if not _is_full(error):
                raise
            self._room.release()
        else:
            if busy:
                raise sqlite3.OperationalError("the checkpoint was held up by a reader")
            self._length = self._copied = 0

    # -- checkpoints, on their own thread

    def _checkpoints(self) -> None:
        while not self._closed:
            if not self._due.wait(_WAIT):
                continue
            self._due.clear()
            if self._closed or self.suspect:
                continue
            try:
                self._checkpoint()
            except sqlite3.Error as error:
                if _is_full(error):
                    if self._room.release():
                        self._due.set()
                    continue  # else the next transaction asks again
                # Whatever it was, it may have taken a failed fsync's only notice away.
                _log.error("a checkpoint of the log failed: %s", error, extra={"path": str(self._path)})
                self.suspect = True

    def _checkpoint(self) -> None:
        """Copy what is committed, beside the writer."""
        with closing(open_writer(self._path)) as db:
            busy, frames, done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy:
                self._length, self._copied = frames * _PAGE, done * _PAGE


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write_again(path: Path) -> None:
    """Write a file's bytes in place, as the page cache has them, and sync them.

    Raises:
        OSError: they are not on the disk.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        at = 0
        while raw := os.pread(file, _PIECE, at):
            at += os.pwrite(file, raw, at)
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(file, fcntl.F_FULLFSYNC)
        else:
            os.fsync(file)
    finally:
        os.close(file)


def _is_full(error: sqlite3.Error) -> bool:
    return "full" in str(error)  # SQLITE_FULL's words in every version; its code has a name since Python 3.11


def _rolled_back(db: sqlite3.Connection) -> bool:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True
