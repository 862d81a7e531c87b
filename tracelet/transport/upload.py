"""Brings the blobs that a batch names to the collector, before the batch itself."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

__all__ = ["BlobGone", "lose", "upload"]

_SILENCE: Final = 60.0  # seconds without an answer; the last one comes after an fsync of it all
_LOOK_EVERY: Final = 0.1


class BlobGone(Exception):
    """A blob's file is not there any more, or is not what its name says."""


def upload(
    stub: Any, file: Path, size: int, run_id: str, between: Callable[[], None], *, silence: float = _SILENCE
) -> None:
    """Upload one blob, from where an earlier attempt broke off. What the collector has already is not sent again.

    Args:
        stub: the collector's methods.
        file: the content; its name is its hash.
        size: bytes, as the record says.
        run_id: the run that it belongs to.
        between: called every tenth of a second; an exception of it ends the upload.
        silence: seconds after which a collector that says nothing is given up.

    Raises:
        BlobGone: the file cannot be read, or is damaged.
        CollectorError: the connection broke, or the collector refused, or it is too old to know uploads.
    """
    _Upload(file, size, run_id).send(stub, between, silence)


def lose(batch: pb.Batch, sha256: str) -> int:
    """Make the records of a batch that name a blob lost ones.

    Returns:
        How many there were.
    """
    name, lost = bytes.fromhex(sha256), 0
    for at in reversed(range(len(batch.events))):
        event = batch.events[at]
        kind = event.WhichOneof("kind")
        if kind in ("media", "artifact") and getattr(event, kind).blob.sha256 == name:
            batch.lost.add(offset=event.offset, count=1)
            del batch.events[at]
            lost += 1
    return lost


class _Upload:
    """One call. gRPC's own thread takes the chunks, as fast as the collector does; one of ours reads the answers."""

    def __init__(self, file: Path, size: int, run_id: str) -> None:
        self._file = file
        self._sha256 = bytes.fromhex(file.name)
        self._size = size
        self._run_id = run_id
        self._offset: SimpleQueue[int | None] = SimpleQueue()
        self._answers: SimpleQueue[wire.UploadReply | Exception] = SimpleQueue()
        self._progress = 0

    def send(self, stub: Any, between: Callable[[], None], silence: float) -> None:
        call = stub.Upload(self._frames())
        threading.Thread(target=self._listen, args=(call,), name="tracelet-upload", daemon=True).start()
        try:
            began = True
            heard, progress = time.monotonic(), 0
            while True:
                try:
                    answer = self._answers.get(timeout=_LOOK_EVERY)
                except Empty:
                    between()
                    if self._progress > progress:
                        heard, progress = time.monotonic(), self._progress
                    if time.monotonic() - heard > silence:
                        raise CollectorError(f"the collector did not answer an upload for {silence:.0f} s") from None
                    continue
                heard = time.monotonic()
                if isinstance(answer, Exception):
                    raise answer
                if answer.done:
                    return
                if began:
                    self._offset.put(answer.offset)
                    began = False
        finally:
            call.cancel()
            self._offset.put(None)

    def _frames(self) -> Iterator[wire.UploadFrame]:
        yield wire.UploadFrame(open=wire.UploadFrame.Open(sha256=self._sha256, size=self._size, run_id=self._run_id))
        offset = self._offset.get()
        if offset is None:
            return
        try:
            for chunk in self._chunks(offset):
                yield wire.UploadFrame(chunk=chunk)
                self._progress += 1
        except BlobGone as error:  # in gRPC's thread, which would only log it
            self._answers.put(error)
            self._offset.get()  # not the end of the content: the call is cancelled first

    def _chunks(self, offset: int) -> Iterator[bytes]:
        """The content from an offset on.

        Raises:
            BlobGone: it is not what its name says. The last chunk is kept back until that is known.
        """
        digest, at = hashlib.sha256(), 0
        try:
            with self._file.open("rb") as content:
                while at < self._size:
                    # What the collector has is read too: for the hash.
                    most = min(codec.UPLOAD_CHUNK, self._size - at)
                    chunk = content.read(min(most, offset - at) if at < offset else most)
                    digest.update(chunk)
                    at += len(chunk)
                    last = at == self._size
                    if not chunk or (last and (content.read(1) or digest.digest() != self._sha256)):
                        raise BlobGone(f"{self._file} is damaged")
                    if at > offset:
                        yield chunk
        except OSError as error:
            raise BlobGone(f"{self._file} cannot be read: {error.strerror}") from error

    def _listen(self, call: Any) -> None:
        import grpc

        try:
            for reply in call:
                self._answers.put(reply)
        except grpc.RpcError:
            said = call.details() or call.code().name
            self._answers.put(CollectorError(f"uploading to the collector failed: {said}"))
        else:
            self._answers.put(CollectorError("the collector ended an upload"))
