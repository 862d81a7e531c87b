"""What the log answers: questions to one SQLite connection, inside the transaction that the caller opened."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.log.base import BackendCursor, Chunk, DeadLetter, RunRow, Stored, StreamRow

__all__ = ["chunk", "cursors", "dead_letters", "dictionary", "overview", "recall", "runs", "signed", "streams"]

_KEYS_PER_QUERY: Final = 500


def runs(db: sqlite3.Connection, run_id: str | None) -> list[RunRow]:
    """All runs, or one, oldest first."""
    only, named = _only(run_id)
    labels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for run, log_dir, label in db.execute(
        f"SELECT run, log_dir, label FROM labels JOIN runs USING (run) {only}", named
    ):
        labels[run][log_dir] = label
    return [
        RunRow(wire.RunSpec.FromString(spec), RunStatus(status), ended, labels.get(run, {}), durable, dropped)
        for run, spec, status, ended, durable, dropped in db.execute(
            f"SELECT run, spec, status, ended, durable, dropped FROM runs {only} ORDER BY run", named
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
    return [
        BackendCursor(
            run_id=run,
            kind=kind,
            lsn=lsn,
            delivered=delivered,
            collapsed=collapsed,
            rerouted=rerouted,
            dead=dead,
            lag_points=durable - delivered - collapsed - rerouted - dead,
            oldest=oldest,
            settled=last_lsn <= lsn,
            state=state,
        )
        for run, kind, lsn, delivered, collapsed, rerouted, dead, state, durable, last_lsn, oldest in db.execute(
            "SELECT run_id, kind, lsn, delivered, collapsed, rerouted, dead, state, durable, last_lsn,"
            " (SELECT arrived FROM batches INDEXED BY batches_by_run"
            "  WHERE batches.run = runs.run AND batches.lsn > cursors.lsn ORDER BY batches.lsn LIMIT 1)"
            f" FROM cursors JOIN runs USING (run) {only} ORDER BY run, cursor",
            named,
        )
    ]


def overview(db: sqlite3.Connection, run_id: str | None) -> list[tuple[RunRow, list[BackendCursor]]]:
    """Runs with their cursors."""
    of: defaultdict[str, list[BackendCursor]] = defaultdict(list)
    for cursor in cursors(db, run_id):
        of[cursor.run_id].append(cursor)
    return [(run, of[run.spec.run_id]) for run in runs(db, run_id)]


def chunk(db: sqlite3.Connection, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
    """What comes after a cursor: at least one batch, or None."""
    place = db.execute(
        "SELECT run, lsn FROM cursors JOIN runs USING (run) WHERE run_id = ? AND kind = ?", (run_id, kind)
    ).fetchone()
    if place is None:
        return None
    run, after = place
    batches: list[Stored] = []
    points = size = 0
    for lsn, stream, count, payload in db.execute(
        "SELECT lsn, stream, points, payload FROM batches INDEXED BY batches_by_run"
        " WHERE run = ? AND lsn > ? ORDER BY lsn",
        (run, after),
    ):
        points += count
        size += len(payload)
        if batches and (points > max_points or size > max_bytes):
            points -= count
            break
        batches.append(Stored(lsn, stream, count, payload))
    if not batches:
        return None
    dictionaries = {
        stream: [
            definition
            for (definition,) in db.execute(
                "SELECT definition FROM tags WHERE stream = ? AND lsn <= ? ORDER BY id", (stream, after)
            )
        ]
        for stream in {batch.stream for batch in batches}
    }
    return Chunk(run_id, after, batches[-1].lsn, points, batches, dictionaries)


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


def dead_letters(db: sqlite3.Connection, run_id: str | None) -> list[DeadLetter]:
    """The dead letters, oldest first."""
    only, named = _only(run_id)
    return [
        DeadLetter(*row)
        for row in db.execute(
            "SELECT run_id, backend, lsn, seq, name, error, point"
            f" FROM dead_letters JOIN runs USING (run) {only} ORDER BY letter",
            named,
        )
    ]


def signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite's integers hold it."""
    return number - 2**64 if number >= 2**63 else number


def _only(run_id: str | None) -> tuple[str, tuple[str, ...]]:
    return ("WHERE run_id = ?", (run_id,)) if run_id is not None else ("", ())
