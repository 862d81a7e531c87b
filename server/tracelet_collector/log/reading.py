"""What the log answers: questions to one SQLite connection, inside the transaction that the caller opened."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.log.base import BackendCursor, Chunk, DeadLetter, RunRow, Stored, StreamRow

__all__ = [
    "chunk",
    "count_dead_letters",
    "cursors",
    "dead_letters",
    "dictionary",
    "overview",
    "recall",
    "redriven",
    "runs",
    "signed",
    "streams",
]

_KEYS_PER_QUERY: Final = 500
_SETTLED: Final = 9  # the places of what SQLite knows as numbers only
_REDRIVEN: Final = 8


def runs(db: sqlite3.Connection, run_id: str | None) -> list[RunRow]:
    """All runs, or one, oldest first."""
    only, named = _only(run_id)
    labels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for run, log_dir, label in db.execute(
        f"SELECT run, log_dir, label FROM labels JOIN runs USING (run) {only}", named
    ):
        labels[run][log_dir] = label
    return [
        RunRow(
            wire.RunSpec.FromString(spec),
            RunStatus(status),
            ended,
            labels.get(run, {}),
            durable,
            dropped,
            bool(retired),
        )
        for run, spec, status, ended, durable, dropped, retired in db.execute(
            f"SELECT run, spec, status, ended, durable, dropped, retired_lsn FROM runs {only} ORDER BY run", named
        )
    ]


def streams(db: sqlite3.Connection, run_id: str) -> list[StreamRow]:
    """The streams of a run."""
    return [
        StreamRow(stream, run_id, writer_id, epoch % 2**64, bool(owner), next_seq, bool(ended))
        for stream, writer_id, epoch, owner, next_seq, ended in db.execute(
            "SELECT stream, writer_id, epoch, owner, next_seq, streams.ended"
            " FROM streams JOIN runs USING (run) WHERE run_id = ? ORDER BY stream",
            (run_id,),
        )
    ]


def dictionary(db: sqlite3.Connection, stream: int) -> Mapping[int, bytes]:
    """The stream's definitions by id."""
    return dict(db.execute("SELECT id, definition FROM tags WHERE stream = ?", (stream,)))


def cursors(db: sqlite3.Connection, run_id: str | None) -> list[BackendCursor]:
    """All cursors, or those of one run. What lies behind each is counted without a look at the batches."""
    only, named = _only(run_id)
    redriven = (
        "(SELECT count(*) FROM dead_letters"
        " WHERE redriven AND dead_letters.run = runs.run AND dead_letters.backend = cursors.kind)"
    )
    rows = db.execute(
        "SELECT run_id, kind, lsn, delivered, collapsed, rerouted, dead,"
        " durable - delivered - collapsed - rerouted - dead,"
        " (SELECT arrived FROM batches INDEXED BY batches_by_run"
        "  WHERE batches.run = runs.run AND batches.lsn > cursors.lsn ORDER BY batches.lsn LIMIT 1),"
        f" last_lsn <= lsn AND NOT {redriven}, state, {redriven}, forgotten"
        f" FROM cursors JOIN runs USING (run) {only} ORDER BY run, cursor",
        named,
    )
    return [BackendCursor(*_with_bools(row, _SETTLED, _SETTLED + 1)) for row in rows]


def overview(db: sqlite3.Connection, run_id: str | None) -> list[tuple[RunRow, list[BackendCursor]]]:
    """Runs with their cursors."""
    of: defaultdict[str, list[BackendCursor]] = defaultdict(list)
    for cursor in cursors(db, run_id):
        of[cursor.run_id].append(cursor)
    return [(run, of[run.spec.run_id]) for run in runs(db, run_id)]


def chunk(db: sqlite3.Connection, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
    """What comes after a cursor: at least one batch, or None."""
    if (place := _place(db, run_id, kind)) is None:
        return None
    run, after, epoch, state = place
    batches: list[Stored] = []
    points = size = 0
    more = False
    for lsn, stream, count, payload in db.execute(
        "SELECT lsn, stream, points, payload FROM batches INDEXED BY batches_by_run"
        " WHERE run = ? AND lsn > ? ORDER BY lsn",
        (run, after),
    ):
        points += count
        size += len(payload)
        if batches and (points > max_points or size > max_bytes):
            points -= count
            more = True
            break
        batches.append(Stored(lsn, stream, count, payload))
    if not batches:
        return None
    dictionaries = {stream: _defined(db, stream, after) for stream in {batch.stream for batch in batches}}
    return Chunk(run_id, after, batches[-1].lsn, points, batches, dictionaries, epoch, state, more=more)


def redriven(db: sqlite3.Connection, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
    """The batches of letters that are to be tried again: at least one, or None."""
    if (place := _place(db, run_id, kind)) is None:
        return None
    run, after, epoch, state = place
    batches: list[Stored] = []
    only: list[tuple[int, int]] = []
    size = 0
    for lsn, seq in db.execute(
        "SELECT lsn, seq FROM dead_letters WHERE redriven AND run = ? AND backend = ? ORDER BY lsn, seq LIMIT ?",
        (run, kind, max_points),
    ):
        if not batches or batches[-1].lsn != lsn:
            found = db.execute("SELECT stream, points, payload FROM batches WHERE lsn = ?", (lsn,)).fetchone()
            if found is None:
                continue  # of a log that somebody has damaged
            size += len(found[2])
            if batches and size > max_bytes:
                break
            batches.append(Stored(lsn, *found))
        only.append((lsn, seq))
    if not batches:
        return None
    newest = {batch.stream: batch.lsn for batch in batches}
    dictionaries = {stream: _defined(db, stream, lsn) for stream, lsn in newest.items()}
    return Chunk(run_id, after, after, len(only), batches, dictionaries, epoch, state, only)


def _place(db: sqlite3.Connection, run_id: str, kind: str) -> tuple[int, int, int, str] | None:
    """Run, lsn, epoch and state of a cursor."""
    found: tuple[int, int, int, str] | None = db.execute(
        "SELECT run, lsn, epoch, state FROM cursors JOIN runs USING (run) WHERE run_id = ? AND kind = ?", (run_id, kind)
    ).fetchone()
    return found


def _defined(db: sqlite3.Connection, stream: int, until: int) -> list[bytes]:
    return [
        definition
        for (definition,) in db.execute(
            "SELECT definition FROM tags WHERE stream = ? AND lsn <= ? ORDER BY id", (stream, until)
        )
    ]


def recall(db: sqlite3.Connection, run_id: str, kind: str, keys: Sequence[int]) -> Mapping[int, int]:
    """Entries of an exporter's memory."""
    place = db.execute("SELECT cursor FROM cursors JOIN runs USING (run) WHERE run_id = ? AND kind = ?", (run_id, kind))
    if (row := place.fetchone()) is None:
        return {}
    found: dict[int, int] = {}
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        some = keys[start : start + _KEYS_PER_QUERY]
        marks = ", ".join("?" * len(some))
        found.update(
            db.execute(
                f"SELECT key, value FROM stamps WHERE cursor = ? AND key IN ({marks})", (row[0], *some)
            ).fetchall()
        )
    return found


def dead_letters(
    db: sqlite3.Connection,
    run_id: str | None,
    backend: str | None = None,
    ids: Sequence[int] | None = None,
    after: int = 0,
    limit: int | None = None,
) -> list[DeadLetter]:
    """The dead letters, oldest first."""
    where, values = _letters_of(run_id, backend)
    found: list[DeadLetter] = []
    chosen = (
        [None]
        if ids is None
        else [sorted(ids)[at : at + _KEYS_PER_QUERY] for at in range(0, len(ids), _KEYS_PER_QUERY)]
    )
    for some in chosen:
        among = "" if some is None else f" AND letter IN ({', '.join('?' * len(some))})"
        rows = db.execute(
            "SELECT run_id, backend, lsn, seq, name, error, point, letter, redriven, lsn <= retired_lsn"
            f" FROM dead_letters JOIN runs USING (run) WHERE letter > ?{where}{among} ORDER BY letter LIMIT ?",
            (after, *values, *(some or ()), -1 if limit is None else limit - len(found)),
        )
        found += [DeadLetter(*_with_bools(row, _REDRIVEN, _REDRIVEN + 2)) for row in rows]
    return found


def count_dead_letters(db: sqlite3.Connection, run_id: str | None, backend: str | None) -> int:
    """How many there are."""
    where, values = _letters_of(run_id, backend)
    count = db.execute(f"SELECT count(*) FROM dead_letters JOIN runs USING (run) WHERE true{where}", values).fetchone()
    return int(count[0])


def _letters_of(run_id: str | None, backend: str | None) -> tuple[str, tuple[str, ...]]:
    asked = [(" AND run_id = ?", run_id), (" AND backend = ?", backend)]
    given = [(words, value) for words, value in asked if value is not None]
    return "".join(words for words, _ in given), tuple(value for _, value in given)


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's integers hold it."""
    return number - 2**64 if number >= 2**63 else number


def _with_bools(row: Sequence[Any], first: int, behind: int) -> list[Any]:
    return [bool(value) if first <= at < behind else value for at, value in enumerate(row)]


def _only(run_id: str | None) -> tuple[str, tuple[str, ...]]:
    return ("WHERE run_id = ?", (run_id,)) if run_id is not None else ("", ())
