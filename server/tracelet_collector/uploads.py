"""The `Upload` call: one blob from a writer into the store.

What the writer hears when it does not end well:

    INVALID_ARGUMENT      the call breaks the contract: no Open, no hash, no chunk
    DATA_LOSS             the content has another hash or more bytes: what came was thrown away; the next upload begins anew
    ABORTED               it broke off, or another upload brings the same content: go on from the offset that is named then
    RESOURCE_EXHAUSTED    no room, or too many uploads at once: later
    UNAVAILABLE           the store cannot be written, or this collector is about to exit: later
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Final, NoReturn

import grpc

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.blobs import BlobStore
from tracelet_collector.partial import BlobBusy, BlobDamaged, NoRoom, Partial

__all__ = ["MAX_UPLOADS", "Uploads"]

MAX_UPLOADS: Final = 32  # each pins a thread
_SHA256_BYTES: Final = 32
_MAX_RUN_ID: Final = 200
_ANSWER_EVERY: Final = 4 * 1024 * 1024
_RECALLED_EVERY: Final = 256 * 1024 * 1024
_SILENCE: Final = 120.0  # of a writer that neither sends nor hangs up
_LOOK_EVERY: Final = 5.0
_log = logging.getLogger(__name__)


class _Refused(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        super().__init__(message)


class Uploads:
    """The uploads that are under way.

    Args:
        store: where blobs go.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._heard: dict[grpc.ServicerContext, float] = {}
        self._draining = False
        self._watch: threading.Thread | None = None

    @property
    def count(self) -> int:
        """Uploads that are under way."""
        with self._lock:
            return len(self._heard)

    def drain(self) -> None:
        """Take no more; those under way end with the server, and can be gone on with."""
        with self._lock:
            self._draining = True

    def upload(self, requests: Iterator[wire.UploadFrame], context: grpc.ServicerContext) -> Iterator[wire.UploadReply]:
        """One call."""
        try:
            self._admit(context)
            yield from self._receive(requests, context)
        except _Refused as refused:
            _abort(context, refused.code, str(refused))
        except BlobDamaged as error:
            _log.warning("an upload is refused: %s", error)
            _abort(context, grpc.StatusCode.DATA_LOSS, str(error))
        except BlobBusy as error:
            _abort(context, grpc.StatusCode.ABORTED, str(error))
        except NoRoom as error:
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, error.strerror or str(error))
        except grpc.RpcError:
            return  # the writer is gone; it goes on another time
        except OSError as error:
            _log.error("a blob cannot be stored: %s", error)
            _abort(context, grpc.StatusCode.UNAVAILABLE, f"the blob cannot be stored: {error.strerror or error}")
        finally:
            with self._lock:
                self._heard.pop(context, None)

    def _admit(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            if self._draining:
                raise _Refused(grpc.StatusCode.UNAVAILABLE, "this collector is about to exit")
            if len(self._heard) >= MAX_UPLOADS:
                raise _Refused(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"this collector takes {MAX_UPLOADS} uploads at once already"
                )
            self._heard[context] = time.monotonic()
            if self._watch is None:
                self._watch = threading.Thread(target=self._look, name="upload-watch", daemon=True)
                self._watch.start()

    def _receive(
        self, requests: Iterator[wire.UploadFrame], context: grpc.ServicerContext
    ) -> Iterator[wire.UploadReply]:
        sha256, size = _opened(next(requests, None))
        partial = self._store.begin(sha256, size)
        if partial is None:
            yield wire.UploadReply(offset=size, done=True)
            return
        with partial:
            yield wire.UploadReply(offset=partial.offset)
            said = 0
            for at in partial.recall():
                self._hear(context)
                if at - said >= _RECALLED_EVERY:  # it takes a while: the writer is to know that somebody is there
                    said = at
                    yield wire.UploadReply(offset=partial.offset)
            yield from self._take(requests, partial, context)
            partial.complete()
        yield wire.UploadReply(offset=size, done=True)

    def _take(
        self, requests: Iterator[wire.UploadFrame], partial: Partial, context: grpc.ServicerContext
    ) -> Iterator[wire.UploadReply]:
        said = partial.offset
        while partial.offset < partial.size:
            frame = next(requests, None)
            if frame is None:
                raise _Refused(
                    grpc.StatusCode.ABORTED, f"the upload ended after {partial.offset} of {partial.size} bytes"
                )
            if frame.WhichOneof("frame") != "chunk" or not frame.chunk:
                raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "an upload is one Open, then chunks")
            self._hear(context)
            partial.write(frame.chunk)
            if partial.offset - said >= _ANSWER_EVERY:
                said = partial.offset
                yield wire.UploadReply(offset=said)

    def _hear(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._heard[context] = time.monotonic()

    def _look(self) -> None:
        """End the calls of writers that neither send nor hang up: each pins a thread."""
        while True:
            time.sleep(_LOOK_EVERY)
            with self._lock:
                silent = [c for c, heard in self._heard.items() if time.monotonic() - heard > _SILENCE]
            for context in silent:
                context.cancel()


def _opened(frame: wire.UploadFrame | None) -> tuple[str, int]:
    """Hash and size that an upload begins with."""
    if frame is None or frame.WhichOneof("frame") != "open":
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "an upload begins with Open")
    said = frame.open
    if len(said.sha256) != _SHA256_BYTES:
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, f"a hash has {_SHA256_BYTES} bytes, not {len(said.sha256)}")
    if said.size > codec.MAX_BLOB_BYTES:
        raise _Refused(
            grpc.StatusCode.INVALID_ARGUMENT, f"{said.size} bytes are too many; {codec.MAX_BLOB_BYTES} are allowed"
        )
    if not said.run_id or len(said.run_id) > _MAX_RUN_ID:
        raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, f"the run id must have 1 to {_MAX_RUN_ID} characters")
    return said.sha256.hex(), said.size


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort raises")
