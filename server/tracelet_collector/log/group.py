"""One group commit: what a list of batches changes in the log, collected and then written as rows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from tracelet.core.metrics import RunStatus
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as records
from tracelet_collector.log import retiring
from tracelet_collector.log.base import Append, SequenceGap

__all__ = ["Group", "StreamState"]

_MOST: Final = 2**62  # a gap may claim any number of points; the sum must stay an integer of SQLite's


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the log remembers of a stream between two commits."""

    run: int
    owner: bool
    next_seq: int
    ended: bool


class Group:
    """Batches on their way into one transaction.

    Args:
        arrived: wall time of the commit.
        last_lsn: the log's newest.

    Attributes:
        streams: how the streams will stand once the transaction is durable.
        size: bytes of the payloads.
        last_lsn: the log's newest by then.
    """

    def __init__(self, arrived: float, last_lsn: int) -> None:
        self.streams: dict[int, StreamState] = {}
        self.size = 0
        self.last_lsn = last_lsn
        self._arrived = arrived
        self._batches: list[tuple[int, int, int, int, int, int, float, bytes]] = []
        self._tags: list[tuple[int, int, int, bytes]] = []
        self._labels: list[tuple[int, str, str]] = []
        self._blobs: list[tuple[bytes, int, int, int]] = []
        self._points: dict[int, int] = {}
        self._dropped: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self._ends: dict[int, tuple[str, float | None, int]] = {}

    def add(self, append: Append, state: StreamState) -> int | SequenceGap:
        """Take a batch, without what the log has already.

        Args:
            append: the batch.
            state: its stream as it stands in the log.

        Returns:
            The stream's next position once the group is durable, or why the batch is not part of it.
        """
        state = self.streams.get(append.stream, state)
        batch = append.batch or records.Batch.FromString(append.payload)
        payload = append.payload
        if batch.first_seq > state.next_seq:
            return SequenceGap(state.next_seq, batch.first_seq)
        if batch.first_seq < state.next_seq:
            rest = codec.cut(batch, state.next_seq)
            if rest is None:
                return state.next_seq
            batch, payload = rest, rest.SerializeToString()
        self.last_lsn += 1
        self._collect(append.stream, state, batch, payload)
        return self.streams[append.stream].next_seq

    def _collect(self, stream: int, state: StreamState, batch: records.Batch, payload: bytes) -> None:
        run, lsn = state.run, self.last_lsn
        counted = codec.tally(batch)
        ended = state.ended
        for event in batch.events:
            kind = event.WhichOneof("kind")
            if kind == "tag_def":
                self._tags.append((stream, event.tag_def.id, lsn, event.tag_def.SerializeToString()))
            elif kind == "writer_seen":
                self._labels.append((run, event.writer_seen.log_dir, event.writer_seen.label))
            elif kind == "run_end":
                status = codec.status_from_wire(event.run_end.status)
                running = status is RunStatus.RUNNING  # a run that goes on says so first of all
                ended = ended or not running
                if state.owner:
                    self._ends[run] = (status.value, None if running else event.run_end.wall_time, run)
        self._blobs += [(bytes.fromhex(sha256), run, size, lsn) for sha256, size in codec.blobs(batch)]
        self._batches.append((lsn, run, stream, batch.first_seq, batch.count, counted.points, self._arrived, payload))
        self.size += len(payload)
        self._points[run] = self._points.get(run, 0) + counted.points
        self._dropped[run] = min(self._dropped.get(run, 0) + counted.dropped, _MOST)
        self._newest[run] = lsn
        self.streams[stream] = StreamState(run, state.owner, batch.first_seq + batch.count, ended)

    def write(self, db: sqlite3.Connection) -> None:
        """Write the rows, inside the caller's transaction."""
        db.executemany(
            "INSERT INTO batches (lsn, run, stream, first_seq, count, points, arrived, payload)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            self._batches,
        )
        # A definition is never changed: should a writer break that rule behind `validate`'s back, the first one stands.
        db.executemany("INSERT OR IGNORE INTO tags (stream, id, lsn, definition) VALUES (?, ?, ?, ?)", self._tags)
        retiring.name_blobs(db, self._blobs)
        db.executemany("INSERT OR REPLACE INTO labels (run, log_dir, label) VALUES (?, ?, ?)", self._labels)
        db.executemany(
            "UPDATE streams SET next_seq = ?, ended = ? WHERE stream = ?",
            [(state.next_seq, state.ended, stream) for stream, state in self.streams.items()],
        )
        db.executemany(
            f"UPDATE runs SET durable = durable + ?, dropped = min(dropped + ?, {_MOST}), last_lsn = ? WHERE run = ?",
            [(self._points[run], self._dropped[run], lsn, run) for run, lsn in self._newest.items()],
        )
        db.executemany("UPDATE runs SET status = ?, ended = ? WHERE run = ?", self._ends.values())
