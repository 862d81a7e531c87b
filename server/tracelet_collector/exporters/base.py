"""What an exporter is: one file that speaks to one tracker, inside a worker process.

The worker decodes the log's batches and hands the exporter the records of one run, in the log's order. The exporter gives
them to the tracker and says what became of each point. It keeps nothing that the next worker process would need, except its
`state` (a small JSON object per run) and `Memory`, both of which come back exactly as they were committed with the cursor:
so the same chunk, delivered again after a crash, leads to the same calls.

Errors tell what can be done:

    ExportError
    ├── Retryable         the tracker is down, slow or busy: the whole chunk again, later, without limit
    ├── Paused            nothing works until somebody does something (a schema, a missing package): try now and then
    │   └── Unauthorized  the tracker does not take the key: the newest one that anybody left for this target is tried
    └── Rewind            what the tracker has cannot be gone on from: the run again, from its first record

A tracker that keeps every row it is given, as W&B does, has no chunk twice without a mark. Its exporter makes its rows so that
they do not depend on where chunks were cut (`Item.lsn` is a place of the log that never changes), counts them, and compares
with what the tracker has; where rows that were taken for delivered are not there, it asks for a `Rewind`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tracelet.core.metrics import BlobRef, Record
from tracelet_collector.blobs import blob_path

__all__ = [
    "Dead",
    "ExportError",
    "Exporter",
    "Gone",
    "Item",
    "Memory",
    "Outcome",
    "Paused",
    "Retryable",
    "Rewind",
    "Run",
    "Unauthorized",
]


class ExportError(Exception):
    """Delivering failed as a whole; the message is shown by `tracelet status`."""


class Retryable(ExportError):
    """It will work later without anybody's help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Paused(ExportError):
    """It will not work until somebody does what the message says."""


class Unauthorized(Paused):
    """The tracker does not take the credentials, or wants some."""


class Rewind(ExportError):
    """What was counted as delivered is not there.

    The run's account in this tracker is cleared, with its state, its memory and its dead letters, and its records come again
    from the first one on.
    """


class Gone(Exception):
    """The content of a record is not in the collector's store any more: what was to be made of it is dead."""


@dataclass(frozen=True, slots=True)
class Run:
    """The run that records belong to.

    Attributes:
        target: the tracker's absolute URI.
        created: wall time of the run's start.
        parent: run id of the run that it belongs to, or empty.
        group, notes, tags: what was given at the start.
        blobs: folder of the content-addressed store.
        redriven: the records of this call were dead letters, and are tried again.
    """

    run_id: str
    name: str
    project: str
    target: str
    created: float
    parent: str = ""
    group: str = ""
    notes: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    blobs: str = ""
    redriven: bool = False

    def content(self, content: bytes | BlobRef) -> bytes | Path:
        """A record's content: its bytes, or the file that has them.

        Raises:
            Gone: it is not there any more.
        """
        if isinstance(content, bytes):
            return content
        blob = blob_path(Path(self.blobs), content.sha256)
        if not blob.is_file() or blob.stat().st_size != content.size:
            raise Gone(
                f"its content ({content.size} bytes, sha256 {content.sha256}) is not in the collector's store any more"
            )
        return blob

    def read(self, content: bytes | BlobRef) -> bytes:
        """A record's content in memory.

        Raises:
            Gone: it is not there any more.
        """
        found = self.content(content)
        return found if isinstance(found, bytes) else found.read_bytes()


@dataclass(frozen=True, slots=True)
class Item:
    """A record with its place in the log."""

    lsn: int
    seq: int
    record: Record


@dataclass(frozen=True, slots=True)
class Dead:
    """A point that this tracker will never take, and why."""

    item: Item
    error: str


@dataclass(slots=True)
class Outcome:
    """What became of the points of one `export` call: each is in exactly one of the four.

    Attributes:
        delivered: stored as they are.
        collapsed: the tracker keeps one of several identical points.
        rerouted: stored in another form.
        dead: never to be stored.
        state: the run's exporter state from now on (JSON-able). What is in its "link" is shown to the user: the run's web
            address in the tracker, or the target and behind `#` where the run is in it.
        stamps: entries to be added to `Memory`. When the run's records leave the log (it has ended, and everything is
            delivered), values of 2**20 and more, such as times, are forgotten; smaller ones, such as counts, stay for a
            script that goes on with the run.
    """

    delivered: int = 0
    collapsed: int = 0
    rerouted: int = 0
    dead: list[Dead] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    stamps: dict[int, int] = field(default_factory=dict)


class Memory(Protocol):
    """A run's keyed memory, as large as it must be: 64-bit signed integers, committed with the cursor."""

    def recall(self, keys: Sequence[int]) -> Mapping[int, int]:
        """The entries of these keys; unknown ones are left out."""

    def working(self, seconds: float) -> None:
        """What comes next may take so much longer than a chunk may otherwise."""


class Exporter(Protocol):
    """One tracker. Used by one thread."""

    kind: ClassVar[str]
    batch_points: ClassVar[int]  # how many points one call should carry, at best

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run.

        Dead letters that are tried again come in a call of their own (`Run.redriven`), later than what follows them in the log:
        their places are before those of earlier calls, and that does not mean that the tracker has them.

        Args:
            run: the run; it is made in the tracker, or found again, when needed.
            items: records in the log's order; may hold no points.
            state: what the last committed call left in `Outcome.state`; empty at first.
            memory: the run's memory.

        Returns:
            What became of every point, and the new state.

        Raises:
            Retryable: nothing of this call counts, though some of it may have arrived: it comes again, the same.
            Paused: likewise, but somebody must do something first.
            Rewind: the run comes again, from its first record on, with an empty state.
        """

    @property
    def holds(self) -> bool:
        """It has something open that the next worker would have to build anew: this one is not ended for being idle."""

    def close(self) -> None:
        """Let go of the tracker. Is not called before a crash."""
