"""A collector of a test that plays what it is told, over real gRPC: refuses, breaks off, loses its acks or its log."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tracelet.core.metrics import Gap, Metric, Record
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import collector_pb2_grpc as service
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.version import __version__


@dataclass(frozen=True)
class Scene:
    """One connection.

    Attributes:
        refuse: say this instead of a welcome.
        silent: say no welcome.
        credit: what the welcome gives.
        batches: after so many, the connection ends...
        goodbye: ...with this; None: it breaks.
        acks: say what is durable.
        forget: the log was removed, and the blobs with it: begin at 0.
        uploads: what becomes of each upload: so many bytes, then it breaks; or it is refused. Later ones are taken.
    """

    refuse: wire.Goodbye.Code.ValueType | None = None
    silent: bool = False
    credit: int = 20_000
    batches: int | None = None
    goodbye: wire.Goodbye.Code.ValueType | None = None
    acks: bool = True
    forget: bool = False
    uploads: tuple[int | grpc.StatusCode, ...] = ()


class Stage(service.CollectorServicer):
    """Serves a home; each connection plays the next scene, the last one for ever.

    Attributes:
        hellos: what each connection said first.
        records: what is in its log.
        most_under_way: positions that were sent and not acked, at most.
        blobs: content by hash; it is whole.
        chunks: for each upload that sent any: the offset at which it began, and how many bytes came.
    """

    def __init__(self, home: Path, *scenes: Scene, answers: bool = True) -> None:
        self._scenes = list(scenes) or [Scene()]
        self._lock = threading.Lock()
        self._names: dict[int, pb.TagDef] = {}
        self.hellos: list[wire.Hello] = []
        self.records: list[Record] = []
        self.next_seq = 0
        self.most_under_way = 0
        self.blobs: dict[str, bytes] = {}
        self.chunks: list[tuple[int, int]] = []
        self.opened = 0
        self._partly: dict[str, bytes] = {}
        self._fates: list[int | grpc.StatusCode] = []
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool)
        service.add_CollectorServicer_to_server(self, self._server)
        address = f"unix:{home}/stage.sock"
        self._server.add_insecure_port(address)
        if answers:
            self._server.start()
        self._calls: list[Any] = []
        self._endpoint = home / "endpoint.json"
        wire_version = [codec.WIRE_MAJOR, codec.WIRE_MINOR]
        self._endpoint.write_text(
            json.dumps({"address": address, "pid": os.getpid(), "version": __version__, "wire": wire_version})
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoint.unlink(missing_ok=True)
        self._server.stop(None).wait(60)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def steps(self) -> list[int]:
        """Steps of the points in its log, in order."""
        return [record.step for record in self.records if isinstance(record, Metric)]

    @property
    def lost(self) -> int:
        """Positions that the writer said it has no more."""
        return sum(record.dropped for record in self.records if isinstance(record, Gap))

    def cut(self) -> None:
        """Break off all connections."""
        for call in self._calls:
            call.cancel()

    def Publish(self, frames: Iterator[wire.ClientFrame], context: Any) -> Iterator[wire.ServerFrame]:
        """A stream."""
        hello = next(frames).hello
        with self._lock:
            self._calls.append(context)
            self.hellos.append(hello)
            scene = self._scenes.pop(0) if len(self._scenes) > 1 else self._scenes[0]
            if scene.forget:
                self.next_seq, self.records, self.blobs = 0, [], {}
            self._fates += scene.uploads
        if scene.silent:
            for _ in frames:
                continue
            return
        if scene.refuse is not None:
            yield wire.ServerFrame(goodbye=wire.Goodbye(code=scene.refuse, message="not now"))
            return
        yield wire.ServerFrame(
            welcome=wire.Welcome(next_seq=self.next_seq, credit=scene.credit, max_batch_records=1000)
        )
        acked = self.next_seq
        for number, frame in enumerate(frames, 1):
            batch = frame.batch
            if any(sha256 not in self.blobs for sha256, _ in codec.blobs(batch)):
                yield wire.ServerFrame(
                    goodbye=wire.Goodbye(code=wire.Goodbye.CODE_MISSING_BLOB, next_seq=self.next_seq)
                )
                return
            self.most_under_way = max(self.most_under_way, batch.first_seq + batch.count - acked)
            self._store(batch)
            if scene.acks:
                acked = self.next_seq
                yield wire.ServerFrame(ack=wire.Ack(next_seq=acked, credit=scene.credit))
            if number == scene.batches:
                if scene.goodbye is None:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
                yield wire.ServerFrame(goodbye=wire.Goodbye(code=scene.goodbye))
                return

    def Upload(self, frames: Iterator[wire.UploadFrame], context: Any) -> Iterator[wire.UploadReply]:
        """One blob."""
        opened = next(frames).open
        name = opened.sha256.hex()
        with self._lock:
            self.opened += 1
            fate = self._fates.pop(0) if self._fates else None
        if isinstance(fate, grpc.StatusCode):
            context.abort(fate, "not now")
        if name in self.blobs:
            yield wire.UploadReply(offset=opened.size, done=True)
            return
        content = self._partly.get(name, b"")
        offset, most = len(content), len(content) + fate if fate is not None else opened.size
        yield wire.UploadReply(offset=offset)
        for frame in frames:
            assert len(frame.chunk) <= codec.UPLOAD_CHUNK
            content = (content + frame.chunk)[:most]
            self._partly[name] = content
            if len(content) == most:
                break
        self.chunks.append((offset, len(content) - offset))
        if len(content) < opened.size:
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")
        assert hashlib.sha256(content).digest() == opened.sha256
        self.blobs[name] = content
        yield wire.UploadReply(offset=opened.size, done=True)

    def _store(self, batch: pb.Batch) -> None:
        with self._lock:
            assert batch.first_seq <= self.next_seq, "positions were skipped"
            if (rest := codec.cut(batch, self.next_seq)) is None:
                return
            self.records += [record for _, record in codec.decode(rest, self._names)]
            self.next_seq = rest.first_seq + rest.count
