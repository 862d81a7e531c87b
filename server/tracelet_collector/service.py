"""The gRPC service: who may come in, and the server that carries it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector import letters
from tracelet_collector.blobs import BlobStore
from tracelet_collector.committer import Committer
from tracelet_collector.handshake import Refusal, StreamKey
from tracelet_collector.log.base import Log, LogFailed, Retired
from tracelet_collector.replay import AlreadyThere, NoSuchRun, replay
from tracelet_collector.stream import PublishStream
from tracelet_collector.uploads import MAX_UPLOADS, Uploads

__all__ = ["MAX_STREAMS", "SERVICE", "CollectorService", "Health", "Streams", "make_server"]

SERVICE: Final = "tracelet.proto.v1.Collector"
MAX_STREAMS: Final = 256  # each pins a thread
_OTHER_CALLS: Final = 32
_MAX_DRAIN: Final = 24 * 3600.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", codec.MAX_BATCH_BYTES + 512 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
    # A writer that vanished without a word (a TCP peer that lost its power) frees its stream.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Streams:
    """The streams that are open now, one for each writer and epoch.

    When a writer comes a second time, its newer stream is served and the older one closed: as a rule the older one's
    connection broke and only the writer has noticed. That is safe: what the older one still has under way is trimmed from
    what the newer one sends, by the log's sequence.

    Args:
        closed: called when a stream has ended.
    """

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed
        self._lock = threading.Lock()
        self._open: set[PublishStream] = set()
        self._by_key: dict[StreamKey, PublishStream] = {}
        self._draining = False

    @property
    def count(self) -> int:
        """Writers that are connected."""
        with self._lock:
            return len(self._by_key)

    def is_open(self, key: StreamKey) -> bool:
        """Whether a writer is connected."""
        with self._lock:
            return key in self._by_key

    def writes(self, run_id: str) -> bool:
        """Whether a writer of a run is connected."""
        with self._lock:
            return any(key[0] == run_id for key in self._by_key)

    def admit(self, stream: PublishStream) -> bool:
        """Let a call in, if there is a thread for it."""
        with self._lock:
            if len(self._open) >= MAX_STREAMS:
                return False
            self._open.add(stream)
            return True

    def claim(self, stream: PublishStream, key: StreamKey) -> None:
        """A call has said whose it is.

        Raises:
            Refusal: the collector takes no streams any more.
        """
        with self._lock:
            if self._draining:
                raise Refusal(wire.Goodbye.CODE_DRAINING, "this collector is about to exit")
            older = self._by_key.get(key)
            self._by_key[key] = stream
        if older is not None:
            older.close(wire.Goodbye.CODE_BUSY, "the writer has opened another stream, which is served instead")

    def leave(self, stream: PublishStream) -> None:
        """A call is over."""
        with self._lock:
            self._open.discard(stream)
            if stream.key is not None and self._by_key.get(stream.key) is stream:
                del self._by_key[stream.key]
        self._closed()

    def close_if_none(self) -> bool:
        """Take no more streams, provided that none is open."""
        with self._lock:
            self._draining = self._draining or not self._open
            return self._draining

    def drain(self) -> None:
        """Take no more streams, and end those that are open once what came is answered."""
        with self._lock:
            self._draining = True
            streams = list(self._open)
        for stream in streams:
            stream.close(wire.Goodbye.CODE_DRAINING, "this collector is about to exit")


class CollectorService:
    """The methods of `tracelet.proto.v1.Collector`.

    Args:
        log: the log.
        committer: where batches go.
        streams: the open streams.
        blobs: the content-addressed store.
        uploads: what brings blobs into it.
        status: answers `Status`; gets a run's id, or None for all.
        wake: called with a run's id when there is something to deliver for it.
        stop: called by `Stop` with the seconds to drain.
    """

    def __init__(
        self,
        log: Log,
        committer: Committer,
        streams: Streams,
        blobs: BlobStore,
        uploads: Uploads,
        status: Callable[[str | None], wire.StatusReply],
        wake: Callable[[str], None],
        stop: Callable[[float], None],
    ) -> None:
        self._log = log
        self._committer = committer
        self._streams = streams
        self._blobs = blobs
        self._uploads = uploads
        self._status = status
        self._wake = wake
        self._stop = stop

    def publish(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[wire.ServerFrame]:
        """A writer's stream."""
        stream = PublishStream(self._log, self._committer, self._blobs, self._streams.claim)
        if not self._streams.admit(stream):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"this collector serves {MAX_STREAMS} writers already")

        def over() -> None:
            stream.gone()
            self._streams.leave(stream)

        if not context.add_callback(over):
            over()
            return
        threading.Thread(target=stream.receive, args=(requests,), name="stream-reader", daemon=True).start()
        yield from stream.replies()

    def upload(self, requests: Iterator[wire.UploadFrame], context: grpc.ServicerContext) -> Iterator[wire.UploadReply]:
        """A writer's blob."""
        return self._uploads.upload(requests, context)

    def status(self, request: wire.StatusRequest, context: grpc.ServicerContext) -> wire.StatusReply:
        """How things stand."""
        with _answered(context):
            return self._status(request.run_id or None)

    def replay(self, request: wire.ReplayRequest, context: grpc.ServicerContext) -> wire.ReplayReply:
        """Deliver a run from its first record on."""
        with _answered(context):
            reply = replay(self._log, request)
            self._wake(request.run_id)
            return reply

    def dead_letters(self, request: wire.DeadLettersRequest, context: grpc.ServicerContext) -> wire.DeadLettersReply:
        """Dead letters, a page of them."""
        with _answered(context):
            return letters.listed(self._log, request)

    def resolve(self, request: wire.ResolveRequest, context: grpc.ServicerContext) -> wire.ResolveReply:
        """Try dead letters again, or drop them."""
        with _answered(context):
            return letters.resolve(self._log, request, self._wake)

    def stop(self, request: wire.StopRequest, context: grpc.ServicerContext) -> wire.StopReply:
        """Drain, then exit. Answers at once."""
        seconds = request.drain_seconds
        try:
            lag = sum(cursor.lag_points for cursor in self._log.cursors())
        except LogFailed:
            lag = 0  # it cannot be told; whoever wants to stop a collector with a broken log must be able to
        self._stop(min(seconds, _MAX_DRAIN) if math.isfinite(seconds) and seconds > 0 else 0.0)
        return wire.StopReply(lag_points=lag)


@contextlib.contextmanager
def _answered(context: grpc.ServicerContext) -> Iterator[None]:
    """What cannot be done is answered in words."""
    try:
        yield
    except LogFailed as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    except NoSuchRun as error:
        context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    except AlreadyThere as error:
        context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
    except Retired as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


class Health:
    """grpc.health.v1, for the server as a whole and for the service."""

    def __init__(self) -> None:
        self.servicer = health.HealthServicer()
        self._serving: bool | None = None

    def set(self, serving: bool) -> None:
        """Say whether records are taken now."""
        if serving != self._serving:
            self._serving = serving
            word = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", SERVICE):
                self.servicer.set(name, word)


def make_server(service: CollectorService, said: Health) -> grpc.Server:
    """A server that carries the service; no port yet.

    Frames of `Publish` come to the service as bytes: what cannot be parsed gets an answer, where gRPC would only break off.
    """
    threads = MAX_STREAMS + MAX_UPLOADS + _OTHER_CALLS
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="grpc"), options=_OPTIONS, maximum_concurrent_rpcs=threads
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Publish": grpc.stream_stream_rpc_method_handler(service.publish, None, wire.ServerFrame.SerializeToString),
        "Upload": grpc.stream_stream_rpc_method_handler(
            service.upload, wire.UploadFrame.FromString, wire.UploadReply.SerializeToString
        ),
        "Status": grpc.unary_unary_rpc_method_handler(
            service.status, wire.StatusRequest.FromString, wire.StatusReply.SerializeToString
        ),
        "Replay": grpc.unary_unary_rpc_method_handler(
            service.replay, wire.ReplayRequest.FromString, wire.ReplayReply.SerializeToString
        ),
        "DeadLetters": grpc.unary_unary_rpc_method_handler(
            service.dead_letters, wire.DeadLettersRequest.FromString, wire.DeadLettersReply.SerializeToString
        ),
        "Resolve": grpc.unary_unary_rpc_method_handler(
            service.resolve, wire.ResolveRequest.FromString, wire.ResolveReply.SerializeToString
        ),
        "Stop": grpc.unary_unary_rpc_method_handler(
            service.stop, wire.StopRequest.FromString, wire.StopReply.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    health_pb2_grpc.add_HealthServicer_to_server(said.servicer, server)
    return server
