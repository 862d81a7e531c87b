"""One writer's stream: its batches in, checked and queued for the log; its acks out.

Two threads serve it: one reads frames (`receive`), one sends answers (`replies`). The committer reports to it. What is under
way is bounded by not reading on, which gRPC's flow control passes on to the writer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as records
from tracelet.version import __version__
from tracelet_collector.blobs import BlobStore
from tracelet_collector.committer import Committer, Outcome, Pending, Rejected
from tracelet_collector.handshake import Refusal, StreamKey, check_hello, key_of
from tracelet_collector.log.base import Append, Log, LogFailed, SequenceGap

__all__ = ["CREDIT", "PublishStream"]

CREDIT: Final = 20_000
_MAX_BYTES_UNDER_WAY: Final = 4 * codec.MAX_BATCH_BYTES
_WAIT: Final = 60.0
_HELLO_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class PublishStream:
    """The state of one `Publish` call.

    Args:
        log: the log.
        committer: where batches go.
        blobs: what batches name must be here.
        claim: called with the stream's key when the writer has said who it is; raises `Refusal` when it may not come in.
    """

    def __init__(
        self, log: Log, committer: Committer, blobs: BlobStore, claim: Callable[[PublishStream, StreamKey], None]
    ) -> None:
        self._log = log
        self._committer = committer
        self._blobs = blobs
        self._claim = claim
        self.key: StreamKey | None = None
        self._change = threading.Condition()
        self._welcome: wire.Welcome | None = None
        self._goodbye: wire.Goodbye | None = None
        self._closed_by_writer = False
        self._over = False
        self._durable = 0
        self._positions = 0
        self._bytes = 0
        self._batches = 0
        # The reading thread's own.
        self._run_id = ""
        self._stream = -1
        self._expected = 0
        self._known: set[int] = set()

    # -- answers: the thread that gRPC runs the call on

    def replies(self) -> Iterator[wire.ServerFrame]:
        """Welcome, acks as batches become durable, and the goodbye when there is one."""
        acked = -1
        with self._change:
            greeted = self._change.wait_for(lambda: self.key is not None or self._at_end(), _HELLO_SECONDS)
        if not greeted:
            self.close(wire.Goodbye.CODE_MALFORMED, f"no Hello within {_HELLO_SECONDS:.0f} s")
        while True:
            with self._change:
                while not (at_end := self._at_end()) and (self._welcome is None or acked >= self._durable):
                    self._change.wait(_WAIT)
                durable, over, welcome, goodbye = self._durable, self._over, self._welcome, self._goodbye
            if over:
                return
            if acked < 0 and welcome is not None:
                yield wire.ServerFrame(welcome=welcome)
                acked = welcome.next_seq
            if durable > acked >= 0:
                yield wire.ServerFrame(ack=wire.Ack(next_seq=durable, credit=CREDIT))
                acked = durable
            if at_end:
                if goodbye is not None:
                    goodbye.next_seq = durable
                    yield wire.ServerFrame(goodbye=goodbye)
                    # A connection that is closed while the writer still sends may take the goodbye with it.
                    with self._change:
                        self._change.wait_for(lambda: self._over or self._closed_by_writer, _LINGER_SECONDS)
                return

    def _at_end(self) -> bool:
        """Nothing is under way, and nothing more is read: what was taken is answered before the end."""
        ending = self._goodbye is not None or self._closed_by_writer
        return self._over or (ending and self._batches == 0)

    def close(self, code: wire.Goodbye.Code.ValueType, message: str) -> None:
        """Read nothing more; answer what was read, then say goodbye."""
        with self._change:
            if self._goodbye is None:
                self._goodbye = wire.Goodbye(code=code, message=message, next_seq=self._durable)
            self._change.notify_all()

    def gone(self) -> None:
        """The call is over, whoever ended it."""
        with self._change:
            self._over = True
            self._change.notify_all()

    # -- frames: a thread of the stream's own

    def receive(self, requests: Iterator[bytes]) -> None:
        """Read frames until the writer ends the stream or vanishes. After a goodbye they count no more."""
        try:
            for raw in requests:
                if self._over:
                    return
                if self._goodbye is None:
                    self._take(raw)
        except grpc.RpcError:
            self.gone()
        else:
            with self._change:
                self._closed_by_writer = True
                self._change.notify_all()

    def _take(self, raw: bytes) -> None:
        try:
            self._take_frame(raw)
        except Refusal as refusal:
            _log.warning("a stream is refused: %s", refusal, extra={"stream": self.key, "code": refusal.code})
            self.close(refusal.code, str(refusal))
        except LogFailed as error:
            self.close(wire.Goodbye.CODE_STORAGE, str(error))
        except Exception:
            _log.exception("a stream is broken off", extra={"stream": self.key})
            self.close(wire.Goodbye.CODE_UNSPECIFIED, "a fault of the collector's; its log says more")

    def _take_frame(self, raw: bytes) -> None:
        try:
            frame = wire.ClientFrame.FromString(raw)
        except DecodeError as error:
            raise Refusal(wire.Goodbye.CODE_MALFORMED, f"a frame that is no ClientFrame: {error}") from error
        kind = frame.WhichOneof("frame")
        if kind == "batch" and self.key is not None:
            self._take_batch(frame.batch)
        elif kind == "hello" and self.key is None:
            self._open(frame.hello)
        else:
            raise Refusal(wire.Goodbye.CODE_MALFORMED, "a stream is one Hello, then batches")

    def _open(self, hello: wire.Hello) -> None:
        check_hello(hello)
        key = key_of(hello.run, hello.writer)
        with self._change:
            self.key = key
            self._change.notify_all()
        self._claim(self, key)
        row = self._log.open_stream(hello.run, hello.writer)
        self._run_id, self._stream, self._expected = row.run_id, row.stream, row.next_seq
        self._known = set(self._log.dictionary(row.stream))
        welcome = wire.Welcome(
            wire=wire.WireVersion(major=codec.WIRE_MAJOR, minor=codec.WIRE_MINOR),
            collector_version=__version__,
            next_seq=row.next_seq,
            credit=CREDIT,
            max_batch_records=codec.MAX_BATCH_RECORDS,
            max_batch_bytes=codec.MAX_BATCH_BYTES,
        )
        with self._change:
            self._durable = row.next_seq
            self._welcome = welcome
            self._change.notify_all()

    def _take_batch(self, batch: records.Batch) -> None:
        payload = batch.SerializeToString()
        if len(payload) > codec.MAX_BATCH_BYTES:
            raise Refusal(
                wire.Goodbye.CODE_MALFORMED, f"a batch of {len(payload)} bytes; {codec.MAX_BATCH_BYTES} are allowed"
            )
        if batch.first_seq > self._expected:
            raise Refusal(
                wire.Goodbye.CODE_OUT_OF_ORDER,
                f"the batch starts at {batch.first_seq}, but the stream continues at {self._expected}",
            )
        defined = {event.tag_def.id for event in batch.events if event.HasField("tag_def")}
        try:
            codec.validate(batch, self._known_before(batch))
        except codec.MalformedBatch as error:
            raise Refusal(wire.Goodbye.CODE_MALFORMED, str(error)) from error
        release = self._hold(batch)
        self._known |= defined
        count, size, points = batch.count, len(payload), codec.tally(batch).points
        with self._change:
            while not self._has_room(count, size):
                self._change.wait(_WAIT)
            if self._over or self._goodbye is not None:
                release()
                return
            self._expected = max(self._expected, batch.first_seq + count)
            self._batches += 1
            self._positions += count
            self._bytes += size
            append = Append(self._stream, payload, batch)
            # Inside the lock: once `close` has returned, nothing of this stream is queued any more.
            done = partial(self._settled, count, size, release)
            self._committer.submit(Pending(self._run_id, append, points, done))

    def _hold(self, batch: records.Batch) -> Callable[[], None]:
        """Hold the blobs that a batch names until the log has it.

        Returns:
            Lets go of them.

        Raises:
            Refusal: one is not here.
        """
        blobs = list(codec.blobs(batch))
        if not blobs:
            return _nothing
        release = self._blobs.hold([sha256 for sha256, _ in blobs])
        for sha256, size in blobs:
            if not self._blobs.has(sha256, size):
                release()
                raise Refusal(wire.Goodbye.CODE_MISSING_BLOB, f"the blob {sha256} was not uploaded")
        return release

    def _known_before(self, batch: records.Batch) -> set[int]:
        """Tags that the batch must not define. The part of it that was sent before may, as it did then: it is trimmed."""
        before = self._expected - batch.first_seq
        again = (
            {e.tag_def.id for e in batch.events if e.offset < before and e.HasField("tag_def")} if before > 0 else None
        )
        return self._known - again if again else self._known

    def _has_room(self, count: int, size: int) -> bool:
        if self._over or self._goodbye is not None or not self._batches:
            return True
        return self._positions + count <= CREDIT and self._bytes + size <= _MAX_BYTES_UNDER_WAY

    # -- outcomes: the committer's thread

    def _settled(self, count: int, size: int, release: Callable[[], None], outcome: Outcome) -> None:
        release()
        with self._change:
            self._batches -= 1
            self._positions -= count
            self._bytes -= size
            if isinstance(outcome, int):
                self._durable = max(self._durable, outcome)
            elif isinstance(outcome, SequenceGap):
                self.close(wire.Goodbye.CODE_OUT_OF_ORDER, str(outcome))
            elif isinstance(outcome, Rejected):
                self.close(wire.Goodbye.CODE_MALFORMED, str(outcome))
            else:
                self.close(wire.Goodbye.CODE_STORAGE, str(outcome))
            self._change.notify_all()


def _nothing() -> None:
    pass
