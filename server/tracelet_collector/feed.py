"""Brings the items of a spool into the log, in the writer's place: cut into batches, checked, queued, waited for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Final

from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as records
from tracelet.spoolfile import SpoolBlob, SpoolDirectory, SpoolItem, SpoolLost, SpoolPoint
from tracelet_collector.blobs import BlobStore
from tracelet_collector.committer import Committer, Outcome, Pending
from tracelet_collector.log.base import Append, LogFailed, StreamRow
from tracelet_collector.partial import BlobDamaged

__all__ = ["Feed", "ImplausibleSpool", "SpoolBlobs"]

_AT_ONCE: Final = 1000
_WINDOW: Final = 16
_COMMIT_SECONDS: Final = 120.0
_MOST_LOST: Final = 2**31
_log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class ImplausibleSpool(ValueError):
    """A spool claims positions that no writer reaches: a file in it is not what its name says."""


class SpoolBlobs:
    """The blobs of one spool, on their way into the store.

    Args:
        store: where they go.
        spool: where they are.
    """

    def __init__(self, store: BlobStore, spool: SpoolDirectory) -> None:
        self._store = store
        self._spool = spool
        self._told = False

    def hold(self, batch: records.Batch) -> Callable[[], None]:
        """Keep the blobs that a batch names in the store, until what is returned is called."""
        names = [sha256 for sha256, _ in codec.blobs(batch)]
        return self._store.hold(names) if names else _nothing

    def gone(self, batch: records.Batch) -> set[int]:
        """Take the blobs that a batch names; they are held.

        Returns:
            Offsets of the records whose content cannot be had any more.

        Raises:
            NoRoom, OSError: the store cannot take one now.
        """
        missing: set[int] = set()
        for event in batch.events:
            holder = event.media if event.HasField("media") else event.artifact if event.HasField("artifact") else None
            if holder is not None and holder.HasField("blob"):
                sha256 = holder.blob.sha256.hex()
                try:
                    self._store.adopt(self._spool.blobs / sha256, sha256, holder.blob.size)
                except BlobDamaged as error:
                    missing.add(event.offset)
                    self._tell(error)
        return missing

    def _tell(self, error: BlobDamaged) -> None:
        if not self._told:
            self._told = True
            _log.error(
                "a spool lacks content that its records name; those are counted as dropped: %s",
                error,
                extra={"spool": str(self._spool.path)},
            )


class Feed:
    """One stream's records on their way from its spool to the log.

    Args:
        committer: where batches go.
        row: the stream; it goes on from `row.next_seq`.
        dictionary: the stream's durable definitions.
        blobs: of the spool.

    Attributes:
        position: the first position that was not put.
        ended: a `RunEnd` is in the stream.
        lost: positions whose content is gone.
        last_wall_time: of the newest point that was put, or 0.
    """

    def __init__(
        self, committer: Committer, row: StreamRow, dictionary: Mapping[int, bytes], blobs: SpoolBlobs
    ) -> None:
        self.position = row.next_seq
        self.ended = row.ended
        self.lost = 0
        self.last_wall_time = 0.0
        self._committer = committer
        self._row = row
        self._known = set(dictionary)
        self._blobs = blobs
        self._under_way: deque[Future[Outcome]] = deque()

    def put(self, items: Sequence[SpoolItem]) -> None:
        """Put consecutive items, from `position` on.

        Raises:
            ImplausibleSpool: see there; what came before is taken.
            NoRoom, OSError: a blob cannot be stored now.
            LogFailed: the log takes nothing now. Begin anew, from what it has, later.
        """
        waiting = iter(items)
        while some := list(islice(waiting, _AT_ONCE)):
            for item in some:
                match item:
                    case SpoolLost(seq, missing) if missing > _MOST_LOST:
                        raise ImplausibleSpool(f"it claims that {missing} positions are missing from {seq} on")
            for batch, release in self._batches(some):
                self.put_batch(batch, release)

    def put_batch(self, batch: records.Batch, release: Callable[[], None] = _nothing) -> None:
        """Put a valid batch that starts at `position`.

        Args:
            batch: its blobs are in the store.
            release: is called when the log has answered.
        """
        try:
            while len(self._under_way) >= _WINDOW:
                self._wait_for_oldest()
        except BaseException:
            release()
            raise
        counted = codec.tally(batch)
        future: Future[Outcome] = Future()

        def done(outcome: Outcome) -> None:
            release()
            future.set_result(outcome)

        append = Append(self._row.stream, batch.SerializeToString(), batch)
        self._committer.submit(Pending(self._row.run_id, append, counted.points, done))
        self._under_way.append(future)
        self.position = batch.first_seq + batch.count
        self.lost += sum(span.count for span in batch.lost)
        self.last_wall_time = max(self.last_wall_time, counted.last_wall_time)
        self.ended = self.ended or any(
            event.HasField("run_end") and event.run_end.status != records.RUN_STATUS_RUNNING for event in batch.events
        )

    def flush(self) -> None:
        """Wait until everything that was put is durable.

        Raises:
            LogFailed: it is not.
        """
        while self._under_way:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        try:
            outcome = self._under_way.popleft().result(_COMMIT_SECONDS)
        except TimeoutError:
            raise LogFailed(f"the log did not answer within {_COMMIT_SECONDS:.0f} s") from None
        if not isinstance(outcome, int):
            raise outcome if isinstance(outcome, LogFailed) else LogFailed(str(outcome))

    def _batches(self, items: Sequence[SpoolItem]) -> Iterator[tuple[records.Batch, Callable[[], None]]]:
        """Valid batches of these items. Damage may have taken a definition: then its points are lost too.

        Yields:
            The batch, whose blobs are in the store and held there, and what lets go of them.
        """
        known = set(self._known)
        batches = list(codec.encode(items))
        try:
            for batch in batches:
                codec.validate(batch, known)
                known |= _defined(batch)
        except codec.MalformedBatch:
            known = set(self._known)
            batches = list(codec.encode(_sound(items, known)))
        self._known = known
        for batch in batches:
            release = self._blobs.hold(batch)
            try:
                gone = self._blobs.gone(batch)
            except BaseException:
                release()
                raise
            yield (_without(batch, gone) if gone else batch), release


def _without(batch: records.Batch, offsets: set[int]) -> records.Batch:
    """A batch whose events at some offsets are lost."""
    rest = records.Batch()
    rest.CopyFrom(batch)
    del rest.events[:]
    rest.events.extend(event for event in batch.events if event.offset not in offsets)
    rest.lost.extend(records.Span(offset=offset, count=1) for offset in sorted(offsets))
    return rest


def _sound(items: Sequence[SpoolItem], known: set[int]) -> Iterator[SpoolItem]:
    """The items, with whatever does not go together with what came before declared lost; `known` grows."""
    for item in items:
        if type(item) is SpoolPoint:
            yield item if item.tag in known else SpoolLost(item.seq, 1)
        elif type(item) is SpoolBlob:
            (batch,) = codec.encode([item])
            try:
                codec.validate(batch, known)
            except codec.MalformedBatch:
                yield SpoolLost(item.seq, 1)
            else:
                known |= _defined(batch)
                yield item
        else:
            yield item


def _defined(batch: records.Batch) -> set[int]:
    return {event.tag_def.id for event in batch.events if event.HasField("tag_def")}
