"""The log in one SQLite file: write-ahead log, every commit synced, group commit.

What is acked stays: see `handle.py` for what follows a failed commit, `room.py` for a full disk.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.log import cursors, letters, reading, retiring
from tracelet_collector.log.base import (
    Append,
    BackendCursor,
    Chunk,
    DeadLetter,
    LogFailed,
    Progress,
    Retirable,
    RunRow,
    SequenceGap,
    StreamRow,
)
from tracelet_collector.log.group import Group, StreamState
from tracelet_collector.log.handle import DiskFull, WriteHandle
from tracelet_collector.log.room import Room
from tracelet_collector.log.schema import open_reader, remedy

__all__ = ["SqliteLog"]

_IDLE_READERS: Final = 8
_T = TypeVar("_T")


class SqliteLog:
    """A `tracelet_collector.log.base.Log` in the file `path`.

    Args:
        path: the database; made, with its folder, when it is not there.
        room: the reserve on its disk; by default a file `ballast` beside it.

    Raises:
        SchemaMismatch: the file is a log of another version, or no log.
        LogFailed: it could not be opened, or what it holds could not be made durable.
    """

    def __init__(self, path: Path, room: Room | None = None) -> None:
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._room = room or Room(path.with_name("ballast"))
        except OSError as error:
            raise LogFailed(f"cannot make the log {path}: {error}") from error
        self._handle = WriteHandle(path, self._room)
        self._states: dict[int, StreamState] = {}
        self._last_lsn = 0
        self._remembered = -1
        self._idle_readers: list[sqlite3.Connection] = []
        self._lending = threading.Lock()
        self._closed = False

    @property
    def healthy(self) -> bool:
        """The last write went well, and there is room for new records."""
        return not self._handle.suspect and self._room.enough()

    @property
    def removed(self) -> bool:
        """Somebody has deleted the file: what is written to it now is lost, and `append` takes nothing."""
        return self._handle.removed

    # -- writing

    def open_stream(self, run: wire.RunSpec, writer: wire.WriterSpec) -> StreamRow:
        """See `Log.open_stream`.

        A new stream of the run's owner sets a run that had ended running again, unless it is that of an older process, whose
        spool was found only now.
        """
        return self._with_reserve(lambda: self._open_stream(run, writer))

    def _open_stream(self, run: wire.RunSpec, writer: wire.WriterSpec) -> StreamRow:
        epoch = reading.signed(writer.epoch)
        with self._handle.lock, self._handle.transaction() as db:
            number, spec = cursors.know_run(db, run)
            new = db.execute(
                "INSERT OR IGNORE INTO streams (run, writer_id, epoch, owner) VALUES (?, ?, ?, ?)",
                (number, writer.writer_id, epoch, writer.owner),
            ).rowcount
            if new and writer.owner:
                cursors.go_by(db, number, spec, run)
                db.execute(
                    "UPDATE runs SET status = ?, ended = NULL WHERE run = ? AND status <> ?"
                    " AND NOT EXISTS (SELECT 1 FROM streams WHERE run = ? AND owner AND epoch > ?)",
                    (RunStatus.RUNNING.value, number, RunStatus.RUNNING.value, number, epoch),
                )
            stream, owner, next_seq, ended = db.execute(
                "SELECT stream, owner, next_seq, ended FROM streams WHERE run = ? AND writer_id = ? AND epoch = ?",
                (number, writer.writer_id, epoch),
            ).fetchone()
        return StreamRow(stream, run.run_id, writer.writer_id, writer.epoch, bool(owner), next_seq, bool(ended))

    def append(self, batches: Sequence[Append]) -> list[int | SequenceGap]:
        """See `Log.append`."""
        if not self._room.enough():
            raise LogFailed(f"the disk of {self._path} is full: new records stay in their spools until there is room")
        with self._handle.lock:
            with self._handle.transaction() as db:
                self._remember(db)
                group = Group(time.time(), self._last_lsn)
                results = [group.add(append, self._state(db, append.stream)) for append in batches]
                group.write(db)
            # Only now: the next commit builds on what is durable.
            self._states.update(group.streams)
            self._last_lsn = group.last_lsn
            self._handle.written(group.size)
        return results

    def commit(self, run_id: str, kind: str, progress: Progress) -> None:
        """See `Log.commit`."""
        self._with_reserve(lambda: self._commit(run_id, kind, progress))

    def _commit(self, run_id: str, kind: str, progress: Progress) -> None:
        with self._handle.lock:
            with self._handle.transaction() as db:
                cursors.move(db, run_id, kind, progress)
            self._handle.written(len(progress.stamps) * 32)

    def add_backend(self, run_id: str, backend: wire.BackendSpec) -> None:
        """See `Log.add_backend`."""
        self._write(lambda db: cursors.add_backend(db, run_id, backend))

    def rewind(self, run_id: str, kind: str) -> int:
        """See `Log.rewind`."""
        return self._write(lambda db: cursors.rewind(db, run_id, kind))

    def redrive(self, ids: Sequence[int]) -> tuple[int, int]:
        """See `Log.redrive`."""
        return self._write(lambda db: letters.redrive(db, ids))

    def keep_dead(self, run_id: str, kind: str, places: Sequence[tuple[int, int]], error: str) -> None:
        """See `Log.keep_dead`."""
        self._write(lambda db: letters.keep(db, cursors.number_of(db, run_id), kind, places, error))

    def forget(self, ids: Sequence[int]) -> int:
        """See `Log.forget`."""
        return self._write(lambda db: letters.forget(db, ids))

    def retire(self, run_id: str) -> bool:
        """See `Log.retire`."""
        return self._write(lambda db: retiring.retire(db, run_id))

    def purge(self, remove: Callable[[str], bool]) -> Iterator[None]:
        """See `Log.purge`."""
        for step in retiring.purge(remove):
            while self._write(step, retiring.STEP_BYTES):
                yield

    def shrink(self) -> Iterator[None]:
        """See `Log.shrink`."""
        while self._write(retiring.shrink, retiring.STEP_BYTES):
            yield
        self._handle.checkpoint_soon()

    def _write(self, change: Callable[[sqlite3.Connection], _T], size: int = 0) -> _T:
        def write() -> _T:
            with self._handle.lock:
                with self._handle.transaction() as db:
                    done = change(db)
                self._handle.written(size)
            return done

        return self._with_reserve(write)

    def _with_reserve(self, write: Callable[[], _T]) -> _T:
        """Writes that must go through on a full disk, at the reserve's cost."""
        try:
            return write()
        except DiskFull:
            if not self._room.release():
                raise
            return write()

    def _remember(self, db: sqlite3.Connection) -> None:
        """Forget what was remembered of the database before its connection was given up."""
        if self._remembered != self._handle.generation:
            self._states.clear()
            self._last_lsn = db.execute("SELECT coalesce(max(last_lsn), 0) FROM runs").fetchone()[0]
            self._remembered = self._handle.generation

    def _state(self, db: sqlite3.Connection, stream: int) -> StreamState:
        if (state := self._states.get(stream)) is None:
            row = db.execute("SELECT run, owner, next_seq, ended FROM streams WHERE stream = ?", (stream,)).fetchone()
            if row is None:
                raise ValueError(f"the log has no stream {stream}")
            state = self._states[stream] = StreamState(row[0], bool(row[1]), row[2], bool(row[3]))
        return state

    # -- reading

    def dictionary(self, stream: int) -> Mapping[int, bytes]:
        """See `Log.dictionary`."""
        return self._ask(lambda db: reading.dictionary(db, stream))

    def runs(self, run_id: str | None = None) -> list[RunRow]:
        """See `Log.runs`."""
        return self._ask(lambda db: reading.runs(db, run_id))

    def streams(self, run_id: str) -> list[StreamRow]:
        """See `Log.streams`."""
        return self._ask(lambda db: reading.streams(db, run_id))

    def cursors(self, run_id: str | None = None) -> list[BackendCursor]:
        """See `Log.cursors`."""
        return self._ask(lambda db: reading.cursors(db, run_id))

    def overview(self, run_id: str | None = None) -> list[tuple[RunRow, list[BackendCursor]]]:
        """See `Log.overview`."""
        return self._ask(lambda db: reading.overview(db, run_id))

    def read(self, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
        """See `Log.read`."""
        return self._ask(lambda db: reading.chunk(db, run_id, kind, max_points, max_bytes))

    def recall(self, run_id: str, kind: str, keys: Sequence[int]) -> Mapping[int, int]:
        """See `Log.recall`."""
        return self._ask(lambda db: reading.recall(db, run_id, kind, keys))

    def dead_letters(
        self,
        run_id: str | None = None,
        backend: str | None = None,
        ids: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[DeadLetter]:
        """See `Log.dead_letters`."""
        return self._ask(lambda db: reading.dead_letters(db, run_id, backend, ids, after, limit))

    def count_dead_letters(self, run_id: str | None = None, backend: str | None = None) -> int:
        """See `Log.count_dead_letters`."""
        return self._ask(lambda db: reading.count_dead_letters(db, run_id, backend))

    def read_redriven(self, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
        """See `Log.read_redriven`."""
        return self._ask(lambda db: reading.redriven(db, run_id, kind, max_points, max_bytes))

    def retirable(self) -> list[Retirable]:
        """See `Log.retirable`."""
        return self._ask(retiring.retirable)

    def size(self) -> int:
        """See `Log.size`."""
        return self._ask(retiring.size)

    def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            with self._reader() as db:
                return question(db)
        except (sqlite3.Error, OSError) as error:
            raise LogFailed(f"{self._path} could not be read: {error}{remedy(self._path, error)}") from error

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a short read transaction: everything read in it is of one moment."""
        with self._lending:
            if self._closed:
                raise LogFailed(f"{self._path} is closed")
            db = self._idle_readers.pop() if self._idle_readers else None
        db = db or open_reader(self._path)
        fit = False
        try:
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")
            fit = True
        finally:
            with self._lending:
                fit = fit and not self._closed and len(self._idle_readers) < _IDLE_READERS
                if fit:
                    self._idle_readers.append(db)
            if not fit:
                db.close()

    def close(self) -> None:
        """See `Log.close`."""
        with self._lending:
            self._closed = True
            idle, self._idle_readers = self._idle_readers, []
        for db in idle:
            db.close()
        self._handle.close()
