"""What is written of dead letters: buried, tried again, forgotten. Inside the transaction that the caller opened.

A letter's point is in its cursor's `dead` for as long as nobody took it; so is one whose letter was dropped, which `forgotten`
counts: dead = letters + forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from tracelet_collector.log.base import DeadLetter, Progress

__all__ = ["bury", "forget", "keep", "redrive", "settle"]


def bury(db: sqlite3.Connection, run: int, backend: str, dead: Iterable[DeadLetter]) -> None:
    """Add letters; the caller counts their points."""
    db.executemany(
        "INSERT INTO dead_letters (run, backend, lsn, seq, name, error, point) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(run, backend, d.lsn, d.seq, d.name, d.error, d.point) for d in dead],
    )


def redrive(db: sqlite3.Connection, ids: Iterable[int]) -> tuple[int, int]:
    """Mark letters to be tried again.

    Returns:
        How many are marked now, and how many cannot be.
    """
    marked = retired = 0
    for letter in dict.fromkeys(ids):
        found = db.execute(
            "SELECT lsn <= retired_lsn FROM dead_letters JOIN runs USING (run) WHERE letter = ?", (letter,)
        ).fetchone()
        if found is not None and found[0]:
            retired += 1
        elif found is not None:
            marked += 1
            db.execute("UPDATE dead_letters SET redriven = 1 WHERE letter = ?", (letter,))
    return marked, retired


def keep(db: sqlite3.Connection, run: int, backend: str, places: Iterable[tuple[int, int]], error: str) -> None:
    """Letters that were tried again stay dead."""
    db.executemany(
        "UPDATE dead_letters SET redriven = 0, error = ? WHERE run = ? AND backend = ? AND lsn = ? AND seq = ?",
        [(error, run, backend, lsn, seq) for lsn, seq in places],
    )


def forget(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    """Drop letters.

    Returns:
        How many there were.
    """
    forgotten = 0
    for letter in dict.fromkeys(ids):
        found = db.execute("SELECT run, backend FROM dead_letters WHERE letter = ?", (letter,)).fetchone()
        if found is not None:
            forgotten += 1
            db.execute("DELETE FROM dead_letters WHERE letter = ?", (letter,))
            db.execute("UPDATE cursors SET forgotten = forgotten + 1 WHERE run = ? AND kind = ?", found)
    return forgotten


def settle(db: sqlite3.Connection, run: int, cursor: int, backend: str, progress: Progress) -> None:
    """What became of letters that were tried again; the caller adds what is no longer dead to the other counts.

    Raises:
        ValueError: a point is dead that was not tried.
    """
    dead = {(letter.lsn, letter.seq): letter for letter in progress.dead}
    if not dead.keys() <= set(progress.only):
        raise ValueError(f"points of {backend} are dead that were not tried again")
    db.executemany(
        "UPDATE dead_letters SET redriven = 0, error = ?, point = ? WHERE run = ? AND backend = ? AND lsn = ? AND seq = ?",
        [(d.error, d.point, run, backend, *place) for place, d in dead.items()],
    )
    taken = [place for place in progress.only if place not in dead]
    # One that somebody has dropped meanwhile was forgotten, and is not dead after all.
    there = _delete(db, run, backend, taken)
    db.execute(
        "UPDATE cursors SET dead = dead - ?, forgotten = forgotten - ? WHERE cursor = ?",
        (len(taken), len(taken) - there, cursor),
    )


def _delete(db: sqlite3.Connection, run: int, backend: str, places: Sequence[tuple[int, int]]) -> int:
    return sum(
        db.execute(
            "DELETE FROM dead_letters WHERE run = ? AND backend = ? AND lsn = ? AND seq = ?", (run, backend, lsn, seq)
        ).rowcount
        for lsn, seq in places
    )
