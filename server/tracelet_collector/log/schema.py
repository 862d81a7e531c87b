"""The log's SQLite file: its tables, its version, and how a connection to it is opened."""

from __future__ import annotations

import os
import shlex
import sqlite3
from pathlib import Path
from typing import Final

from tracelet_collector.log.base import LogFailed

__all__ = ["SCHEMA_VERSION", "SchemaMismatch", "open_reader", "open_writer", "remedy"]

SCHEMA_VERSION: Final = 2
_BUSY_SECONDS: Final = 10.0

_DEAD_LETTERS: Final = (
    """
    CREATE TABLE dead_letters (
        letter INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL,
        backend TEXT NOT NULL,
        lsn INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        name TEXT NOT NULL,
        error TEXT NOT NULL,
        point TEXT NOT NULL,
        redriven INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX dead_letters_by_place ON dead_letters (run, backend, lsn, seq)",
    "CREATE INDEX dead_letters_redriven ON dead_letters (run, backend, lsn, seq) WHERE redriven",
)
# Which runs name which content, with the newest batch that does; and up to where that is not known of older batches.
_BLOBS: Final = (
    """
    CREATE TABLE blobs (
        sha256 BLOB NOT NULL,
        run INTEGER NOT NULL,
        size INTEGER NOT NULL,
        lsn INTEGER NOT NULL,
        PRIMARY KEY (sha256, run)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX blobs_by_run ON blobs (run, lsn)",
    "CREATE TABLE unindexed (until INTEGER NOT NULL)",
)
# The payload is the last column of its row, so nothing but `read` touches its pages. The index answers from itself where a
# cursor stands: how many points it would pass, and since when the oldest waits.
_TABLES: Final = (
    """
    CREATE TABLE runs (
        run INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        spec BLOB NOT NULL,
        status TEXT NOT NULL,
        ended REAL,
        durable INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        last_lsn INTEGER NOT NULL DEFAULT 0,
        retired_lsn INTEGER NOT NULL DEFAULT 0,
        purged_lsn INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE labels (
        run INTEGER NOT NULL,
        log_dir TEXT NOT NULL,
        label TEXT NOT NULL,
        PRIMARY KEY (run, log_dir)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE streams (
        stream INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        writer_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        owner INTEGER NOT NULL,
        next_seq INTEGER NOT NULL DEFAULT 0,
        ended INTEGER NOT NULL DEFAULT 0,
        UNIQUE (run, writer_id, epoch)
    )
    """,
    """
    CREATE TABLE batches (
        lsn INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        stream INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        count INTEGER NOT NULL,
        points INTEGER NOT NULL,
        arrived REAL NOT NULL,
        payload BLOB NOT NULL
    )
    """,
    "CREATE INDEX batches_by_run ON batches (run, lsn, points, arrived)",
    """
    CREATE TABLE tags (
        stream INTEGER NOT NULL,
        id INTEGER NOT NULL,
        lsn INTEGER NOT NULL,
        definition BLOB NOT NULL,
        PRIMARY KEY (stream, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE cursors (
        cursor INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        kind TEXT NOT NULL,
        lsn INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        collapsed INTEGER NOT NULL DEFAULT 0,
        rerouted INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        state TEXT NOT NULL DEFAULT '',
        epoch INTEGER NOT NULL DEFAULT 0,
        forgotten INTEGER NOT NULL DEFAULT 0,
        UNIQUE (run, kind)
    )
    """,
    """
    CREATE TABLE stamps (
        cursor INTEGER NOT NULL,
        key INTEGER NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (cursor, key)
    ) WITHOUT ROWID
    """,
    *_DEAD_LETTERS,
    *_BLOBS,
)
# From the first version to this one. An id of a dead letter is never given twice, so they move to a table of their own kind.
_FROM_1: Final = (
    "ALTER TABLE runs ADD COLUMN retired_lsn INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE runs ADD COLUMN purged_lsn INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE cursors ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE cursors ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE dead_letters RENAME TO older_dead_letters",
    "DROP INDEX dead_letters_by_run",
    *_DEAD_LETTERS,
    "INSERT INTO dead_letters (letter, run, backend, lsn, seq, name, error, point)"
    " SELECT letter, run, backend, lsn, seq, name, error, point FROM older_dead_letters",
    "DROP TABLE older_dead_letters",
    *_BLOBS,
    # Which blobs the batches up to here name is found out later, bit by bit (`retiring.index`).
    "INSERT INTO unindexed SELECT max(lsn) FROM batches HAVING max(lsn) IS NOT NULL",
)
# How a reader, which changes nothing, sees the first version.
_READ_1: Final = (
    "CREATE TEMP VIEW runs AS SELECT *, 0 AS retired_lsn FROM main.runs",
    "CREATE TEMP VIEW cursors AS SELECT *, 0 AS epoch, 0 AS forgotten FROM main.cursors",
    "CREATE TEMP VIEW dead_letters AS SELECT *, 0 AS redriven FROM main.dead_letters",
)


class SchemaMismatch(LogFailed):
    """The file is a log of another version, or no log at all. It is left as it is."""


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the log for writing; make it when there is none.

    Raises:
        SchemaMismatch: this tracelet cannot use the file.
        sqlite3.Error: it could not be opened.
    """
    db = _connect(f"{path.absolute().as_uri()}?mode=rwc")
    try:
        if not (blank := _is_blank(db)):
            _check(db, path)
        # Decided by the file's first page, which the switch to WAL writes: it must be said before that.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if (mode := db.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
            raise SchemaMismatch(
                f"{path} cannot have a write-ahead log (it stays in mode {mode}): a network filesystem?"
            )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # macOS: fsync alone leaves the data in the drive's cache.
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
        if blank:
            _create(db)
            _sync_directory(path.parent)
        elif _version(db) == 1:
            _upgrade(db)
    except BaseException:
        db.close()
        raise
    return db


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the log for reading: in the collector, or when none runs.

    Raises:
        FileNotFoundError: nothing was ever logged: there is no file, or it was just being made.
        SchemaMismatch: this tracelet cannot use the file.
        sqlite3.Error: it could not be opened.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    db = _connect(f"{path.absolute().as_uri()}?mode=ro")
    try:
        if _is_blank(db):
            raise FileNotFoundError(path)
        _check(db, path)
        if _version(db) == 1:
            for view in _READ_1:
                db.execute(view)
    except BaseException:
        db.close()
        raise
    return db


def remedy(path: Path, error: Exception) -> str:
    """What to do about a log that SQLite cannot make sense of; empty when the error is another one."""
    if not any(words in str(error) for words in ("not a database", "malformed", "corrupt")):
        return ""
    move = shlex.join(["mv", str(path.parent), str(path.parent.with_name(f"{path.parent.name}.damaged"))])
    return (
        f". The log is damaged. Move it away:  {move}  - the next collector begins a new one and takes in the spools, which "
        "are kept; what was only in the damaged log stays in there"
    )


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS)


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring a log of the first version up to date: whole or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if _version(db) == 1:  # another process may have been faster
            for statement in _FROM_1:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _is_blank(db: sqlite3.Connection) -> bool:
    return _version(db) == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check(db: sqlite3.Connection, path: Path) -> None:
    if (version := _version(db)) > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{path} was written by a newer tracelet (schema {version}; this one reads {SCHEMA_VERSION}): upgrade tracelet"
        )
    if version not in (1, SCHEMA_VERSION):
        raise SchemaMismatch(
            f"{path} has schema {version}, which this tracelet (schema {SCHEMA_VERSION}) cannot read: move the file away"
        )


def _sync_directory(path: Path) -> None:
    """Make the file's name durable: SQLite syncs the folder of a journal, not the folders above."""
    for folder in (path, path.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
