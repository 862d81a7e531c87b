"""A writer's upload of a test, chunk by chunk, and content that is made as it is read."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Iterator
from pathlib import Path

import grpc

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import collector_pb2_grpc as service

__all__ = ["CHUNK", "Upload", "content", "digest", "upload_all"]

CHUNK = 64 * 1024


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression would shorten."""
    return hashlib.shake_256(seed.to_bytes(8, "little")).digest(size)


def digest(data: bytes) -> str:
    """Its hash, in hex."""
    return hashlib.sha256(data).hexdigest()


class Upload:
    """One `Upload` call, frame by frame."""

    def __init__(self, channel: grpc.Channel, sha256: str, size: int, run_id: str = "r") -> None:
        self._out: queue.SimpleQueue[wire.UploadFrame | None] = queue.SimpleQueue()
        self._out.put(
            wire.UploadFrame(open=wire.UploadFrame.Open(sha256=bytes.fromhex(sha256), size=size, run_id=run_id))
        )
        self._call = service.CollectorStub(channel).Upload(iter(self._out.get, None), timeout=240)

    def reply(self) -> wire.UploadReply:
        """The next answer.

        Raises:
            grpc.RpcError: it ended badly.
        """
        answer: wire.UploadReply = next(self._call)
        return answer

    def frame(self, frame: wire.UploadFrame) -> None:
        """Send a frame."""
        self._out.put(frame)

    def send(self, data: bytes, chunk: int = CHUNK) -> None:
        """Send content."""
        for at in range(0, len(data), chunk):
            self.frame(wire.UploadFrame(chunk=data[at : at + chunk]))

    def finish(self) -> None:
        """Send nothing more."""
        self._out.put(None)

    def cancel(self) -> None:
        """Vanish."""
        self._call.cancel()
        self._out.put(None)

    def done(self) -> None:
        """Wait for the last answer."""
        while not self.reply().done:
            pass
        self.finish()

    def refused(self) -> grpc.RpcError:
        """Wait for a bad end."""
        try:
            while True:
                self.reply()
        except grpc.RpcError as error:
            self._out.put(None)
            return error
        except StopIteration:
            raise AssertionError("the upload ended well") from None


def upload_all(channel: grpc.Channel, data: bytes, run_id: str = "r") -> int:
    """Upload content; the offset at which the collector wanted it."""
    upload = Upload(channel, digest(data), len(data), run_id)
    first = upload.reply()
    if first.done:
        upload.finish()
        return len(data)
    upload.send(data[first.offset :])
    upload.done()
    return int(first.offset)


def upload_file(channel: grpc.Channel, path: Path, sha256: str, chunk: int = 512 * 1024) -> int:
    """Upload a file that is too large for the memory, from where an earlier attempt broke off; where that was.

    Raises:
        grpc.RpcError: it broke off.
    """
    offsets: queue.SimpleQueue[int] = queue.SimpleQueue()
    size = path.stat().st_size

    def frames() -> Iterator[wire.UploadFrame]:
        yield wire.UploadFrame(open=wire.UploadFrame.Open(sha256=bytes.fromhex(sha256), size=size, run_id="r"))
        with path.open("rb") as file:
            file.seek(offsets.get(timeout=240))
            while piece := file.read(chunk):
                yield wire.UploadFrame(chunk=piece)

    replies = service.CollectorStub(channel).Upload(frames(), timeout=2400)
    first = next(replies)
    offsets.put(first.offset)
    if not first.done:
        assert any(reply.done for reply in replies)
    return int(first.offset)
