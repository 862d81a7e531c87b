"""How runs leave the log: what may go, and each step of its going. Inside the transaction that the caller opened.

First a run is marked, in one transaction, with the newest lsn that goes. From then on nobody reads what lies before: every
cursor is behind it, and none is put back or added before it. Then steps delete what is marked:

    batches
    definitions    of streams that have ended; a writer that may still come needs its own
    stamps         that are times; a resumed run needs counts (see `KEPT`)
    content        that no other batch names; then the row that says so

A step that is cut short comes again. Content goes in the transaction that looks who else names it, so no batch can come to name
it meanwhile; whoever has seen that it is there, and is about to name it, holds on to it (`BlobStore.hold`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as records
from tracelet_collector.log.base import LogFailed, Retirable

__all__ = ["KEPT", "STEP_BYTES", "free_pages", "name_blobs", "purge", "retirable", "retire", "shrink", "size"]

KEPT: Final = 2**20
STEP_BYTES: Final = 2 * 1024 * 1024
_ROWS: Final = 5000
_BLOBS: Final = 16  # each is a file, and a synced folder
_PAGES: Final = STEP_BYTES // 4096
_MAY_GO: Final = """
    status <> 'running' AND ended IS NOT NULL AND last_lsn > retired_lsn
    AND EXISTS (SELECT 1 FROM cursors WHERE cursors.run = runs.run)
    AND NOT EXISTS (SELECT 1 FROM cursors WHERE cursors.run = runs.run AND cursors.lsn < runs.last_lsn)
    AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE redriven AND dead_letters.run = runs.run)
"""

Step: TypeAlias = Callable[[sqlite3.Connection], bool]


def name_blobs(db: sqlite3.Connection, blobs: Iterable[tuple[bytes, int, int, int]]) -> None:
    """Note that batches name content.

    Args:
        db: the log.
        blobs: hash, run, size and lsn.
    """
    db.executemany(
        "INSERT INTO blobs (sha256, run, size, lsn) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (sha256, run) DO UPDATE SET lsn = max(lsn, excluded.lsn)",
        blobs,
    )


def retirable(db: sqlite3.Connection) -> list[Retirable]:
    """Runs that may be retired, oldest first."""
    return [
        Retirable(*row)
        for row in db.execute(
            "SELECT run_id, max(ended, coalesce((SELECT arrived FROM batches WHERE lsn = last_lsn), 0)) AS since"
            f" FROM runs WHERE {_MAY_GO} ORDER BY since, run"
        )
    ]


def retire(db: sqlite3.Connection, run_id: str) -> bool:
    """Mark a run, if it may go."""
    return bool(
        db.execute(f"UPDATE runs SET retired_lsn = last_lsn WHERE run_id = ? AND {_MAY_GO}", (run_id,)).rowcount
    )


def size(db: sqlite3.Connection) -> int:
    """Bytes of the log's pages that are in use, and of the content that batches name."""
    pages = db.execute("PRAGMA page_count").fetchone()[0] - free_pages(db)
    content = db.execute("SELECT coalesce(sum(size), 0) FROM (SELECT max(size) AS size FROM blobs GROUP BY sha256)")
    return int(pages * db.execute("PRAGMA page_size").fetchone()[0] + content.fetchone()[0])


def free_pages(db: sqlite3.Connection) -> int:
    """Pages of the file that nothing is in."""
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def shrink(db: sqlite3.Connection) -> bool:
    """Cut some free pages off the file. False: there are none."""
    free = free_pages(db)
    # One page a call: more would come one by one as the statement is stepped, and Python's module steps it once.
    for _ in range(min(free, _PAGES)):
        db.execute("PRAGMA incremental_vacuum(1)")
    return free > 0


def purge(remove: Callable[[str], bool]) -> Iterator[Step]:
    """The steps that delete what marked runs left; each is to be done until it says False.

    Args:
        remove: removes content; False when somebody is about to name it.
    """
    yield _index
    yield _batches
    yield _definitions
    yield _Stamps()
    yield _Contents(remove)
    yield _done


_MARKED: Final = "SELECT run FROM runs WHERE retired_lsn > purged_lsn"


def _index(db: sqlite3.Connection) -> bool:
    """Find out which content older batches name, the newest first: a log of the first version does not say it."""
    (until,) = db.execute("SELECT max(until) FROM unindexed").fetchone()
    if until is None:
        return False
    seen = 0
    for lsn, run, payload in db.execute(
        "SELECT lsn, run, payload FROM batches WHERE lsn <= ? ORDER BY lsn DESC", (until,)
    ):
        try:
            batch = records.Batch.FromString(payload)
        except DecodeError as error:
            raise LogFailed(f"a batch cannot be read, so nobody knows which content it names: {error}") from error
        name_blobs(db, [(bytes.fromhex(sha256), run, length, lsn) for sha256, length in codec.blobs(batch)])
        seen += len(payload)
        if seen > STEP_BYTES:
            db.execute("UPDATE unindexed SET until = ?", (lsn - 1,))
            return True
    db.execute("DELETE FROM unindexed")
    return False


def _batches(db: sqlite3.Connection) -> bool:
    chosen: list[tuple[int]] = []
    seen = 0
    for lsn, length in db.execute(
        "SELECT lsn, length(payload) FROM runs CROSS JOIN batches USING (run)"
        " WHERE retired_lsn > purged_lsn AND lsn <= retired_lsn"
    ):
        chosen.append((lsn,))
        seen += length
        if seen > STEP_BYTES or len(chosen) >= _ROWS:
            break
    db.executemany("DELETE FROM batches WHERE lsn = ?", chosen)
    return bool(chosen)


def _definitions(db: sqlite3.Connection) -> bool:
    some = db.execute(
        "SELECT stream, id FROM runs CROSS JOIN streams USING (run) CROSS JOIN tags USING (stream)"
        " WHERE retired_lsn > purged_lsn AND streams.ended AND lsn <= retired_lsn LIMIT ?",
        (_ROWS,),
    ).fetchall()
    db.executemany("DELETE FROM tags WHERE stream = ? AND id = ?", some)
    return bool(some)


class _Stamps:
    """Stamps that are times, in the order of their keys."""

    def __init__(self) -> None:
        self._after = (-1, 0)

    def __call__(self, db: sqlite3.Connection) -> bool:
        some = db.execute(
            "SELECT cursor, key, value FROM stamps WHERE (cursor, key) > (?, ?)"
            f" AND cursor IN (SELECT cursor FROM cursors WHERE run IN ({_MARKED})) ORDER BY cursor, key LIMIT ?",
            (*self._after, _ROWS),
        ).fetchall()
        times = [(cursor, key) for cursor, key, value in some if abs(value) >= KEPT]
        db.executemany("DELETE FROM stamps WHERE cursor = ? AND key = ?", times)
        if some:
            self._after = some[-1][:2]
        return bool(some)


class _Contents:
    """Content that only marked runs name.

    Args:
        remove: removes it.
    """

    def __init__(self, remove: Callable[[str], bool]) -> None:
        self._remove = remove
        self._held: set[tuple[bytes, int]] = set()

    def __call__(self, db: sqlite3.Connection) -> bool:
        some = db.execute(
            "SELECT sha256, run FROM runs CROSS JOIN blobs USING (run) WHERE retired_lsn > purged_lsn AND lsn <= retired_lsn"
            " LIMIT ?",
            (_BLOBS + len(self._held),),
        ).fetchall()
        todo = [place for place in some if place not in self._held]
        for sha256, run in todo:
            alone = db.execute("SELECT 1 FROM blobs WHERE sha256 = ? AND run <> ?", (sha256, run)).fetchone() is None
            if alone and not self._remove(sha256.hex()):
                self._held.add((sha256, run))
            else:
                db.execute("DELETE FROM blobs WHERE sha256 = ? AND run = ?", (sha256, run))
        return bool(todo)


def _done(db: sqlite3.Connection) -> bool:
    db.execute(
        "UPDATE runs SET purged_lsn = retired_lsn WHERE retired_lsn > purged_lsn"
        " AND NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.run = runs.run AND blobs.lsn <= retired_lsn)"
    )
    return False
