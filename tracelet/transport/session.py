"""One connection of a writer to a collector: frames out, acks in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.transport.channel import collector_stub, open_channel
from tracelet.version import __version__

__all__ = ["Refused", "Session"]


class Refused(CollectorError):
    """The collector said goodbye.

    Attributes:
        code: why, as the wire names it.
        final: coming back to the same collector with the same is useless.
    """

    def __init__(self, goodbye: wire.Goodbye) -> None:
        self.code = goodbye.code
        self.final = goodbye.code in (wire.Goodbye.CODE_VERSION, wire.Goodbye.CODE_MALFORMED)
        super().__init__(goodbye.message or wire.Goodbye.Code.Name(goodbye.code))


class Session:
    """An open stream.

    Args:
        address: gRPC target.
        hello: run and writer; the versions are filled in.
        progressed: set when the stream broke, and, while `eager`, when an ack came.
        timeout: seconds for the collector's welcome.

    Attributes:
        next_seq: the first position that is not durable.
        credit: positions that may be under way.
        broken: why the stream ended, or None.
        eager: somebody waits for the next ack.
        stub: the collector's other methods.

    Raises:
        CollectorError: no welcome in time, or the connection failed.
        Refused: it said goodbye instead.
    """

    def __init__(self, address: str, hello: wire.Hello, progressed: threading.Event, timeout: float) -> None:
        self._outbox: SimpleQueue[wire.ClientFrame | None] = SimpleQueue()
        self._progressed = progressed
        self._welcomed = threading.Event()
        self.broken: CollectorError | None = None
        self.next_seq = 0
        self.credit = 0
        self.max_records = 1000
        self.eager = False
        self._channel = open_channel(address)
        hello.wire.major, hello.wire.minor = codec.WIRE_MAJOR, codec.WIRE_MINOR
        hello.client_version = __version__
        self._outbox.put(wire.ClientFrame(hello=hello))
        self.stub = collector_stub(self._channel)
        self._call: Any = self.stub.Publish(iter(self._outbox.get, None))
        self._receiver = threading.Thread(target=self._receive, name="tracelet-acks", daemon=True)
        self._receiver.start()
        if not self._welcomed.wait(timeout) or self.broken is not None:
            error = self.broken or CollectorError(f"the collector at {address} did not answer within {timeout:.0f} s")
            self.close()
            raise error

    def send(self, batch: pb.Batch) -> None:
        """Queue a batch; the caller keeps to `credit`."""
        self._outbox.put(wire.ClientFrame(batch=batch))

    def close(self) -> None:
        """End the stream."""
        self._outbox.put(None)
        self._call.cancel()
        self._channel.close()

    def _receive(self) -> None:
        try:
            self._follow(self._call)
        except Exception as error:  # grpc.RpcError is no class of its own before grpc is imported
            said = getattr(error, "details", lambda: None)() or error
            self.broken = self.broken or CollectorError(f"the connection to the collector broke: {said}")
        else:
            self.broken = self.broken or CollectorError("the collector ended the connection")
        self._welcomed.set()
        self._progressed.set()

    def _follow(self, frames: Iterator[wire.ServerFrame]) -> None:
        for frame in frames:
            kind = frame.WhichOneof("frame")
            if kind == "welcome":
                self.next_seq, self.credit = frame.welcome.next_seq, frame.welcome.credit
                self.max_records = min(frame.welcome.max_batch_records or self.max_records, self.max_records)
                self._welcomed.set()
            elif kind == "ack":
                self.credit = frame.ack.credit or self.credit
                self.next_seq = frame.ack.next_seq
                if self.eager:
                    self._progressed.set()
            elif kind == "goodbye":
                self.broken = Refused(frame.goodbye)
                return
