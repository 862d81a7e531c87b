"""The durable log, behind the interface that the rest of the collector speaks.

A log holds, for each stream (a writer's epoch), an unbroken sequence of records exactly once; for each run and backend (by
its slot: what the run calls it, mostly its kind) a cursor with its counts; and the dead letters. What writes is durable when
it returns. SQLite keeps it (`sqlite.py`); a larger team will want NATS JetStream, so nothing here assumes SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as records

__all__ = [
    "Append",
    "BackendCursor",
    "Chunk",
    "DeadLetter",
    "Log",
    "LogFailed",
    "Progress",
    "Retirable",
    "Retired",
    "RunRow",
    "SequenceGap",
    "Stored",
    "StreamRow",
    "slot_of",
]


def slot_of(backend: wire.BackendSpec) -> str:
    """What a run calls a backend, and what its cursor is kept under: mostly the kind."""
    return backend.slot or backend.kind


class LogFailed(Exception):
    """The log could not make something durable. Nothing of what was under way counts; what was acked before still does."""


class SequenceGap(Exception):
    """A batch starts after the first position that is not durable: positions were skipped without a word."""

    def __init__(self, next_seq: int, got: int) -> None:
        self.next_seq = next_seq
        self.got = got
        super().__init__(f"the batch starts at {got}, but the log continues at {next_seq}")


class Retired(Exception):
    """The log no longer has a run's records, or not all of them: they were delivered everywhere, and old."""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream as the log knows it.

    Attributes:
        next_seq: the first position that is not durable.
        ended: a `RunEnd` is in it.
    """

    stream: int
    run_id: str
    writer_id: str
    epoch: int
    owner: bool
    next_seq: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Append:
    """A validated batch to be appended. What the log has already is trimmed, and the bytes stored as they came otherwise.

    Attributes:
        payload: the batch, serialised.
        batch: the same, parsed, where whoever validated it has it at hand: a batch is parsed once.
    """

    stream: int
    payload: bytes
    batch: records.Batch | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored batch."""

    lsn: int
    stream: int
    points: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Stored batches of one run, for delivery: consecutive ones, or those that hold dead letters which are tried again.

    Attributes:
        after: the lsn before the first batch, as the cursor has it.
        until: the lsn of the last batch; what a cursor is moved to.
        points: points in `batches`; of those in `only`, when that says which.
        dictionaries: for every stream in `batches`, the `TagDef`s (serialised) that came before the chunk.
        epoch: of the cursor; it grows when the cursor is put back. For `Progress`.
        state: the exporter's state, as it was committed.
        only: lsn and seq of the records that are meant, when not all are.
        more: the log has more behind it.
    """

    run_id: str
    after: int
    until: int
    points: int
    batches: Sequence[Stored]
    dictionaries: Mapping[int, Sequence[bytes]]
    epoch: int = 0
    state: str = ""
    only: Sequence[tuple[int, int]] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A point that a backend will never take, by what is known.

    Attributes:
        point: JSON, for people: name, value, step, wall_time; of media and artifacts kind, size and hash.
        letter: its id; 0 before the log has it.
        redriven: it is to be tried again.
        retired: its record is no longer in the log.
    """

    run_id: str
    backend: str
    lsn: int
    seq: int
    name: str
    error: str
    point: str
    letter: int = 0
    redriven: bool = False
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What delivering a chunk came to: committed together with the cursor, in one transaction.

    Attributes:
        until: the chunk's last lsn.
        delivered, collapsed, rerouted: points, by what became of them. `dead` is counted from the letters.
        dead: the letters.
        state: the exporter's own state after the chunk (JSON); None leaves it as it is.
        stamps: entries of the exporter's keyed memory to be added or replaced (see `Log.recall`).
        epoch: the chunk's; when the cursor has another one by now, it was put back, and nothing of this counts. None: whatever
            it has.
        only: the chunk's. Its records were dead: those in `dead` stay so, the others no longer are, and the cursor stays where
            it is.
    """

    until: int
    delivered: int = 0
    collapsed: int = 0
    rerouted: int = 0
    dead: Sequence[DeadLetter] = ()
    state: str | None = None
    stamps: Mapping[int, int] = field(default_factory=dict)
    epoch: int | None = None
    only: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class BackendCursor:
    """Where a backend stands with a run.

    Attributes:
        lag_points: points in the log behind the cursor.
        oldest: wall time at which the oldest undelivered batch became durable; None when nothing is left.
        settled: nothing is left: no points, no events, and no dead letters to be tried again.
        state: the exporter's state (JSON), empty at the start.
        redriven: of the dead, how many are to be tried again.
        forgotten: of the dead, how many have no letter any more.
    """

    run_id: str
    kind: str
    lsn: int
    delivered: int
    collapsed: int
    rerouted: int
    dead: int
    lag_points: int
    oldest: float | None
    settled: bool
    state: str
    redriven: int = 0
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Retirable:
    """A run whose records may go: it has ended, and every backend has all of it.

    Attributes:
        since: wall time of its end, or of the arrival of its newest record, whichever is later.
    """

    run_id: str
    since: float


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the log knows it.

    Attributes:
        retired: records of it are no longer in the log; those that came when it was resumed may be.
    """

    spec: wire.RunSpec
    status: RunStatus
    ended: float | None
    labels: Mapping[str, str]
    durable: int
    dropped: int
    retired: bool = False


class Log(Protocol):
    """Thread-safe. Writers are serialised inside; readers never wait for them. Every call may raise `LogFailed`."""

    def open_stream(self, run: wire.RunSpec, writer: wire.WriterSpec) -> StreamRow:
        """The stream of a writer's epoch, made (with its run and its cursors) when it is new. Durable.

        A run that is known keeps its first name, project and backends; a backend it does not have yet is added, with its
        cursor at the beginning. Its parent, group, notes and tags are what the newest of its owners said.

        Raises:
            LogFailed: it could not be written.
        """

    def dictionary(self, stream: int) -> Mapping[int, bytes]:
        """The stream's durable `TagDef`s (serialised), by id."""

    def append(self, batches: Sequence[Append]) -> list[int | SequenceGap]:
        """Append batches in one transaction: group commit.

        Returns:
            For each batch the stream's next position, durable now, or a `SequenceGap` (that batch alone is refused).

        Raises:
            LogFailed: nothing of this call counts. The log has given up the handle, and works again, on a new one, only
                when everything that was acked before is known to be on the disk.
        """

    def runs(self, run_id: str | None = None) -> list[RunRow]:
        """All runs, or one, oldest first."""

    def streams(self, run_id: str) -> list[StreamRow]:
        """The streams of a run."""

    def cursors(self, run_id: str | None = None) -> list[BackendCursor]:
        """All cursors, or those of one run."""

    def overview(self, run_id: str | None = None) -> list[tuple[RunRow, list[BackendCursor]]]:
        """Runs with their cursors, all of one moment: the counts of a run add up. Oldest first."""

    def read(self, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
        """What comes after the cursor of a run's backend: at least one batch, or None."""

    def commit(self, run_id: str, kind: str, progress: Progress) -> None:
        """Move a cursor, with the counts, the dead letters and the exporter's state. Durable.

        A commit never moves a cursor back: progress that is behind it was committed before, and is left out. So is that of an
        earlier epoch: the cursor was put back meanwhile.

        Raises:
            LogFailed: nothing of this call counts.
            ValueError: there is no such cursor, or the counts are not those of the points it would pass.
        """

    def add_backend(self, run_id: str, backend: wire.BackendSpec) -> None:
        """Give a run a backend more, with its cursor at the beginning; one that it has stays as it is. Durable.

        Raises:
            LogFailed: nothing of this call counts.
            Retired: the run's records are no longer in the log.
            ValueError: there is no such run.
        """

    def rewind(self, run_id: str, kind: str) -> int:
        """Put a cursor back to the beginning: its counts, its state, its memory and its dead letters are cleared. Durable.

        What was read before is of an earlier epoch: its commit comes to nothing.

        Returns:
            Points that are behind the cursor now.

        Raises:
            LogFailed: nothing of this call counts.
            Retired: the run's records are no longer in the log.
            ValueError: there is no such cursor.
        """

    def recall(self, run_id: str, kind: str, keys: Sequence[int]) -> Mapping[int, int]:
        """Entries of an exporter's keyed memory (signed 64-bit key to signed 64-bit value); unknown keys are left out."""

    def dead_letters(
        self,
        run_id: str | None = None,
        backend: str | None = None,
        ids: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[DeadLetter]:
        """The dead letters, oldest first.

        Args:
            run_id: of one run.
            backend: of one slot.
            ids: only these.
            after: only those with a greater id.
            limit: so many at most.
        """

    def count_dead_letters(self, run_id: str | None = None, backend: str | None = None) -> int:
        """How many dead letters there are."""

    def redrive(self, ids: Sequence[int]) -> tuple[int, int]:
        """Mark dead letters to be tried again; unknown ids are left out. Durable.

        Returns:
            How many are marked now, and how many cannot be: their records are no longer in the log.

        Raises:
            LogFailed: nothing of this call counts.
        """

    def read_redriven(self, run_id: str, kind: str, max_points: int, max_bytes: int) -> Chunk | None:
        """The batches of dead letters that are to be tried again, with `only` saying which records: at least one, or None."""

    def keep_dead(self, run_id: str, kind: str, places: Sequence[tuple[int, int]], error: str) -> None:
        """Trying letters again came to nothing: they lose their mark, and get another error. Durable.

        Raises:
            LogFailed: nothing of this call counts.
        """

    def forget(self, ids: Sequence[int]) -> int:
        """Drop dead letters. Their points stay dead, and are counted as such; nobody can try them again. Durable.

        Returns:
            How many there were.

        Raises:
            LogFailed: nothing of this call counts.
        """

    def retirable(self) -> list[Retirable]:
        """Runs that may be retired, oldest end first: ended, delivered everywhere, with no letter to be tried again."""

    def retire(self, run_id: str) -> bool:
        """Give up a run's records, if it may be retired now. Its counts, its cursors and its dead letters stay. Durable.

        New records of the run, should it go on, are kept. The room comes back by `purge` and `shrink`.

        Returns:
            Whether it is retired now.

        Raises:
            LogFailed: nothing of this call counts.
        """

    def purge(self, remove: Callable[[str], bool]) -> Iterator[None]:
        """Delete what retired runs leave, in short steps; others write in between. Broken off, it goes on the next time.

        Args:
            remove: removes the content with a hash, which no batch names any more; False when somebody is about to name it.

        Raises:
            LogFailed: a step came to nothing.
        """

    def shrink(self) -> Iterator[None]:
        """Give the disk back what is free in the log, in short steps.

        Raises:
            LogFailed: a step came to nothing.
        """

    def size(self) -> int:
        """Bytes that the log takes, with the content that its batches name; what is free in it is left out."""

    def close(self) -> None:
        """Close all handles. What was acked is durable already."""
