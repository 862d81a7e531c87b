"""The log's one write connection: its transactions, its checkpoints, and the way back after a commit that failed.

An error in a commit may be a failed fsync, and after one the kernel has forgotten which pages never reached the disk: a
later fsync of the same file succeeds although they are lost. They lie in the write-ahead log, perhaps on the page that also
holds the end of what was acked before. A successor process is no better off: it reads the write-ahead log from the page
cache, takes it for durable, and appends to it.

So after any error, and whenever a log is opened, nothing is acked before a truncating checkpoint has gone through on a new
connection. It writes every frame of the write-ahead log from the page cache into the database file (so those pages are dirty
again), syncs that, and begins an empty write-ahead log. A checkpoint that fails has taken no frame off the log: the next one
writes them all again. While it fails, every write fails.

A full disk is another matter: SQLite hears of it before it syncs anything, and rolls back.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from tracelet_collector.log.base import LogFailed
from tracelet_collector.log.room import Room
from tracelet_collector.log.schema import open_writer

__all__ = ["DiskFull", "WriteHandle"]

_CHECKPOINT_AT: Final = 4 * 1024 * 1024
_BOUND: Final = 16 * 1024 * 1024  # not above the reserve: on a full disk it must take what the write-ahead log holds
_PAGE: Final = 4096
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
        suspect: nothing can be acked until a truncating checkpoint has gone through.

    Raises:
        SchemaMismatch: the file is a log of another version, or no log.
        LogFailed: it could not be opened, or what it holds could not be made durable.
    """

    def __init__(self, path: Path, room: Room) -> None:
        self.lock = threading.Lock()
        self.generation = 0
        self.suspect = True
        self._path = path
        self._room = room
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._unchecked = 0
        self._due = threading.Event()
        with self.lock:
            self._open()
        self._thread = threading.Thread(target=self._checkpoints, name="log-checkpoint", daemon=True)
        self._thread.start()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; the caller holds `lock`.

        Raises:
            DiskFull: nothing of it counts.
            LogFailed: nothing of it counts, and the connection was given up.
        """
        db = self._open()
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if _is_full(error) and _rolled_back(db):
                raise DiskFull(f"the disk of {self._path} is full") from error
            self._give_up(error)
            raise LogFailed(f"{self._path} could not be written: {error}") from error
        except BaseException:
            if not _rolled_back(db):
                self._give_up(None)
            raise

    def written(self, payload_bytes: int) -> None:
        """Tell the checkpoints how much a transaction added."""
        self._unchecked += payload_bytes + 8 * _PAGE
        if self._unchecked >= _CHECKPOINT_AT:
            self._due.set()

    def close(self) -> None:
        """Stop the checkpoints and close the connection."""
        self._closed = True
        self._due.set()
        self._thread.join(_WAIT)
        with self.lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one, and everything acked made durable first, when there is none that can be trusted."""
        if self._closed:
            raise LogFailed(f"{self._path} is closed")
        if self._db is not None and self.suspect:
            self._give_up(None)
        if self._db is None:
            try:
                db = open_writer(self._path)
            except sqlite3.Error as error:
                raise LogFailed(f"{self._path} could not be opened: {error}") from error
            try:
                self._truncate(db)
            except sqlite3.Error as error:
                db.close()
                raise LogFailed(f"what {self._path} holds could not be made durable: {error}") from error
            if self.generation:
                _log.info("the log works again", extra={"path": str(self._path)})
            self._db, self.suspect = db, False
        return self._db

    def _give_up(self, error: sqlite3.Error | None) -> None:
        if error is not None:
            _log.error("the log's connection is given up: %s", error, extra={"path": str(self._path)})
        self.suspect = True
        self.generation += 1
        if self._db is not None:
            try:
                self._db.close()
            except sqlite3.Error as failure:
                _log.error("closing the log's connection failed: %s", failure)
            self._db = None

    def _truncate(self, db: sqlite3.Connection) -> None:
        """Bring everything into the database file, synced. On a full disk the reserve makes room for it.

        Raises:
            sqlite3.Error: not everything is there.
        """
        try:
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if not (_is_full(error) and self._room.release()):
                raise
            busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the checkpoint was held up by a reader")
        self._unchecked = 0

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
            except (sqlite3.Error, LogFailed) as error:
                if isinstance(error, sqlite3.Error) and _is_full(error):
                    if self._room.release():
                        self._due.set()
                    continue  # else the next transaction asks again
                # Whatever it was, it may have taken a failed fsync's only notice away.
                _log.error("a checkpoint of the log failed: %s", error, extra={"path": str(self._path)})
                self.suspect = True

    def _checkpoint(self) -> None:
        """Copy what is committed beside the writer; when that never catches up, hold the writer for a moment."""
        with closing(open_writer(self._path)) as db:
            _, frames, done = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            left = max(frames - done, 0) * _PAGE
            self._unchecked = left
            if frames * _PAGE > _BOUND:
                with self.lock:
                    self._truncate(db)


def _is_full(error: sqlite3.Error) -> bool:
    return "full" in str(error)  # SQLITE_FULL's words in every version; its code has a name since Python 3.11


def _rolled_back(db: sqlite3.Connection) -> bool:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True
