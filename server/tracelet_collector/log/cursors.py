"""What is written of runs and cursors: made, moved, put back. Inside the transaction that the caller opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.log import letters
from tracelet_collector.log.base import Progress, Retired, slot_of

__all__ = ["add_backend", "go_by", "know_run", "move", "number_of", "rewind"]


def know_run(db: sqlite3.Connection, run: wire.RunSpec) -> tuple[int, wire.RunSpec]:
    """The run's row, made when it is new, with a cursor for each of its backends."""
    db.execute(
        "INSERT OR IGNORE INTO runs (run_id, spec, status) VALUES (?, ?, ?)",
        (run.run_id, run.SerializeToString(), RunStatus.RUNNING.value),
    )
    number, raw = db.execute("SELECT run, spec FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    spec = wire.RunSpec.FromString(raw)
    _add_backends(db, number, spec, run.backends)
    return int(number), spec


def add_backend(db: sqlite3.Connection, run_id: str, backend: wire.BackendSpec) -> None:
    """Give a run a backend more, which gets it from its first record on.

    Raises:
        Retired: there is no first record any more.
        ValueError: there is no such run.
    """
    row = db.execute("SELECT run, spec, retired_lsn FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise ValueError(f"the log has no run {run_id}")
    number, raw, retired = row
    if retired:
        raise Retired(_retired(run_id))
    _add_backends(db, number, wire.RunSpec.FromString(raw), [backend])


def _add_backends(
    db: sqlite3.Connection, number: int, spec: wire.RunSpec, backends: Iterable[wire.BackendSpec]
) -> None:
    there = {slot_of(backend) for backend in spec.backends}
    if added := [backend for backend in backends if slot_of(backend) not in there]:
        spec.backends.extend(added)
        db.execute("UPDATE runs SET spec = ? WHERE run = ?", (spec.SerializeToString(), number))
    # What is no longer in the log when a backend joins will never reach it: dead, without letters.
    db.executemany(
        "INSERT OR IGNORE INTO cursors (run, kind, lsn, dead, forgotten)"
        " SELECT run, ?, retired_lsn, gone, gone FROM (SELECT run, retired_lsn, CASE WHEN retired_lsn THEN durable -"
        " (SELECT coalesce(sum(points), 0) FROM batches INDEXED BY batches_by_run"
        "  WHERE batches.run = runs.run AND lsn > retired_lsn) ELSE 0 END AS gone FROM runs WHERE run = ?)",
        [(slot_of(backend), number) for backend in spec.backends],
    )


def go_by(db: sqlite3.Connection, number: int, spec: wire.RunSpec, run: wire.RunSpec) -> None:
    """Whoever resumes a run may say of it what it likes: the newest word stands. What it leaves open stays as it was."""
    for field in ("parent", "group", "notes"):
        if said := getattr(run, field):
            setattr(spec, field, said)
    spec.tags.update(run.tags)
    db.execute("UPDATE runs SET spec = ? WHERE run = ?", (spec.SerializeToString(deterministic=True), number))


def rewind(db: sqlite3.Connection, run_id: str, kind: str) -> int:
    """Put a cursor back to the beginning.

    Returns:
        Points behind it.

    Raises:
        Retired: there is no beginning any more.
        ValueError: there is no such cursor.
    """
    run, cursor = _place(db, run_id, kind)
    durable, retired = db.execute("SELECT durable, retired_lsn FROM runs WHERE run = ?", (run,)).fetchone()
    if retired:
        raise Retired(_retired(run_id))
    db.execute(
        "UPDATE cursors SET lsn = 0, delivered = 0, collapsed = 0, rerouted = 0, dead = 0, forgotten = 0, state = '',"
        " epoch = epoch + 1 WHERE cursor = ?",
        (cursor,),
    )
    db.execute("DELETE FROM stamps WHERE cursor = ?", (cursor,))
    db.execute("DELETE FROM dead_letters WHERE run = ? AND backend = ?", (run, kind))
    return int(durable)


def move(db: sqlite3.Connection, run_id: str, kind: str, progress: Progress) -> None:
    """Move a cursor, or settle letters that were tried again.

    Raises:
        ValueError: there is no such cursor, or the counts are not those of the points that were to be delivered.
    """
    run, cursor = _place(db, run_id, kind)
    lsn, epoch = db.execute("SELECT lsn, epoch FROM cursors WHERE cursor = ?", (cursor,)).fetchone()
    if progress.epoch not in (None, epoch):
        return  # the cursor was put back while this was under way
    if progress.only:
        _check(progress, len(progress.only), run_id, kind, f"{len(progress.only)} dead letters that were tried")
        letters.settle(db, run, cursor, kind, progress)
    else:
        if progress.until <= lsn:
            return
        until, points = db.execute(
            "SELECT max(lsn), coalesce(sum(points), 0) FROM batches INDEXED BY batches_by_run"
            " WHERE run = ? AND lsn > ? AND lsn <= ?",
            (run, lsn, progress.until),
        ).fetchone()
        _check(progress, points if until == progress.until else -1, run_id, kind, f"{points} between {lsn} and {until}")
        letters.bury(db, run, kind, progress.dead)
        db.execute(
            "UPDATE cursors SET lsn = ?, dead = dead + ? WHERE cursor = ?",
            (progress.until, len(progress.dead), cursor),
        )
    db.execute(
        "UPDATE cursors SET delivered = delivered + ?, collapsed = collapsed + ?, rerouted = rerouted + ?,"
        " state = coalesce(?, state) WHERE cursor = ?",
        (progress.delivered, progress.collapsed, progress.rerouted, progress.state, cursor),
    )
    db.executemany(
        "INSERT OR REPLACE INTO stamps (cursor, key, value) VALUES (?, ?, ?)",
        [(cursor, key, value) for key, value in progress.stamps.items()],
    )


def _check(progress: Progress, points: int, run_id: str, kind: str, there: str) -> None:
    accounted = progress.delivered + progress.collapsed + progress.rerouted + len(progress.dead)
    if accounted != points:
        raise ValueError(
            f"progress of {kind} in run {run_id} accounts for {accounted} points up to {progress.until}; the log has {there}"
        )


def number_of(db: sqlite3.Connection, run_id: str) -> int:
    """The number that a run's rows have.

    Raises:
        ValueError: there is no such run.
    """
    row = db.execute("SELECT run FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise ValueError(f"the log has no run {run_id}")
    return int(row[0])


def _place(db: sqlite3.Connection, run_id: str, kind: str) -> tuple[int, int]:
    row = db.execute(
        "SELECT run, cursor FROM cursors JOIN runs USING (run) WHERE run_id = ? AND kind = ?", (run_id, kind)
    ).fetchone()
    if row is None:
        raise ValueError(f"run {run_id} has no cursor for {kind}")
    return int(row[0]), int(row[1])


def _retired(run_id: str) -> str:
    return (
        f"run {run_id} is retired: its records were delivered everywhere, and are no longer in the log, so it cannot be "
        "delivered from the first one on again"
    )
