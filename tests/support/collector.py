"""A real collector of a test, and a writer's stream to it that says exactly what it is told to."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

import grpc
from tracelet_collector.delivery import Live
from tracelet_collector.home import log_path
from tracelet_collector.log.base import Log
from tracelet_collector.log.schema import open_reader

from tests.support.batches import points
from tests.support.processes import lives, until, wait_gone
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import collector_pb2_grpc as service
from tracelet.proto.v1 import records_pb2 as pb

ROOT = Path(__file__).parents[2]


class CollectorProcess:
    """`python -m tracelet_collector serve` for a home.

    Args:
        home: tracelet's home; a short path is not needed.
        options: of the command line; by default it stays, however long nobody needs it.
        wrapper: a command to run it under.
        environment: added to the test's own.
        program: what to run instead of `-m tracelet_collector`.
        ready: wait until it accepts connections.
    """

    def __init__(
        self,
        home: Path,
        *options: str,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "tracelet_collector"),
        ready: bool = True,
    ) -> None:
        self.home = home
        if "--idle" not in options:
            options = (*options, "--idle", "3600")  # no test is to take its end for the one that it waits for
        self._said = home.with_name(f"{home.name}-{os.urandom(4).hex()}.err")
        with self._said.open("wb") as output:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, *program, "serve", "--home", str(home), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._channel: grpc.Channel | None = None
        self._streams: list[WireStream] = []
        if ready:
            until(self._announced, 30, "the collector serves")

    def _announced(self) -> bool:
        assert self.process.poll() is None, self.said()
        try:
            endpoint = json.loads((self.home / "endpoint.json").read_text())
        except FileNotFoundError:
            return False
        # Under a wrapper the collector is not our child; a predecessor's announcement is not ours either way.
        self.pid = int(endpoint["pid"])
        self.endpoint = endpoint
        return self.pid == self.process.pid or self._is_wrapped()

    def _is_wrapped(self) -> bool:
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # gone before the opening, or after it
            return False
        return str(self.pid) in children

    def __enter__(self) -> CollectorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def said(self) -> str:
        """Its stdout and stderr."""
        return self._said.read_text()

    def journal(self) -> list[dict[str, object]]:
        """Its log."""
        return [json.loads(line) for line in (self.home / "collector.log").read_text().splitlines()]

    @property
    def channel(self) -> grpc.Channel:
        """A connection to it."""
        if self._channel is None:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
            self._channel = grpc.insecure_channel(self.endpoint["address"], options=options)
        return self._channel

    @property
    def stub(self) -> service.CollectorStub:
        """Its methods."""
        return service.CollectorStub(self.channel)

    def status(self, run_id: str = "") -> wire.StatusReply:
        """What it says of itself."""
        return self.stub.Status(wire.StatusRequest(run_id=run_id), timeout=60)

    def open(self, run: wire.RunSpec, writer: wire.WriterSpec, **versions: object) -> WireStream:
        """A stream that has said its Hello."""
        stream = WireStream(self.channel)
        self._streams.append(stream)
        stream.hello(run, writer, **versions)
        return stream

    def hang_up(self) -> None:
        """End all streams that were opened here, and wait until the collector has noticed."""
        for stream in self._streams:
            stream.cancel()
        self._streams.clear()
        until(lambda: self.status().streams == 0)

    def kept(self, run_id: str) -> list[int]:
        """What its log has of a run of one stream now: positions of the points. Each must be what `batch` made of it."""
        with closing(open_reader(log_path(self.home))) as db:
            payloads = db.execute(
                "SELECT payload FROM batches JOIN runs USING (run) WHERE run_id = ? ORDER BY lsn", (run_id,)
            )
            names: dict[int, pb.TagDef] = {}
            decoded = [codec.decode(pb.Batch.FromString(payload), names) for (payload,) in payloads]
            return list(points(record for records in decoded for record in records))

    def kill(self) -> None:
        """Signal 9."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(60)
        wait_gone(self.pid, 10)
        self._close_channel()

    def terminate(self, seconds: float = 60.0) -> int:
        """SIGTERM; its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.process.wait(seconds)
        self._close_channel()
        return code

    def stop(self) -> None:
        """End it, whatever it takes."""
        self._close_channel()
        if self.process.poll() is None:
            pid = getattr(self, "pid", self.process.pid)
            if lives(pid):
                os.kill(pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                if lives(pid):
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait(10)
        self._said.unlink(missing_ok=True)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class WireStream:
    """A `Publish` call, frame by frame."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[wire.ServerFrame | grpc.RpcError | None] = queue.SimpleQueue()
        publish = channel.stream_stream(
            "/tracelet.proto.v1.Collector/Publish", response_deserializer=wire.ServerFrame.FromString
        )
        self._call = publish(iter(self._out.get, None), timeout=240)
        self.acked = -1
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        try:
            for frame in self._call:
                self._in.put(frame)
        except grpc.RpcError as error:
            self._in.put(error)
        else:
            self._in.put(None)

    def hello(self, run: wire.RunSpec, writer: wire.WriterSpec, major: int = 1, minor: int = 0) -> None:
        """Say who comes."""
        version = wire.WireVersion(major=major, minor=minor)
        self.frame(wire.ClientFrame(hello=wire.Hello(wire=version, client_version="9.9", run=run, writer=writer)))

    def frame(self, frame: wire.ClientFrame) -> None:
        """Send a frame."""
        self._out.put(frame.SerializeToString())

    def raw(self, frame: bytes) -> None:
        """Send bytes for a frame."""
        self._out.put(frame)

    def send(self, *batches: pb.Batch) -> None:
        """Send batches."""
        for batch in batches:
            self.frame(wire.ClientFrame(batch=batch))

    def finish(self) -> None:
        """Send nothing more."""
        self._out.put(None)

    def cancel(self) -> None:
        """Vanish."""
        self._call.cancel()
        self._out.put(None)

    def next(self, seconds: float = 60.0) -> wire.ServerFrame | None:
        """The next answer; None: the stream is over.

        Raises:
            grpc.RpcError: it broke.
        """
        frame = self._in.get(timeout=seconds)
        if isinstance(frame, grpc.RpcError):
            raise frame
        if frame is not None and frame.WhichOneof("frame") == "ack":
            self.acked = frame.ack.next_seq
        return frame

    def welcome(self) -> wire.Welcome:
        """The answer to Hello."""
        frame = self.next()
        assert frame is not None, "the stream is over"
        assert frame.WhichOneof("frame") == "welcome", frame
        self.acked = frame.welcome.next_seq
        return frame.welcome

    def acked_to(self, position: int) -> None:
        """Wait until everything before a position is acked."""
        while self.acked < position:
            frame = self.next()
            assert frame is not None, "the stream is over"
            assert frame.WhichOneof("frame") == "ack", frame
            assert frame.ack.credit > 0

    def goodbye(self) -> wire.Goodbye:
        """Skip acks, up to the goodbye; nothing comes behind it."""
        while True:
            frame = self.next()
            assert frame is not None, "the stream ended without a goodbye"
            if frame.WhichOneof("frame") == "goodbye":
                self.finish()
                assert self.next() is None
                return frame.goodbye


class Nowhere:
    """Delivery to nobody: the room that a collector's own delivery is exchanged for where its trackers do not matter."""

    def __init__(self, log: Log, home: Path) -> None:
        self._log = log

    def start(self) -> None:
        """Nothing to begin."""

    def wake(self, run_id: str) -> None:
        """Nothing to do."""

    def stop(self, deadline: float) -> None:
        """Nothing to end."""

    def live(self) -> Mapping[tuple[str, str], Live]:
        """Everything is paused."""
        return {(cursor.run_id, cursor.kind): Live("paused", "nowhere", 0) for cursor in self._log.cursors()}
