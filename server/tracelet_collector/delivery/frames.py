"""Frames between the scheduler and a worker: a JSON header and bytes, each with its length in front.

The conversation (version 1). The scheduler asks, the worker answers, one exchange at a time:

    hello {version, kind, locks}            ready {version, pid, batch_points, filters} | refused {message}
    export {run, about, state, …} + bytes   exported {counts, dead, state} + stamps
                                             | retry {message, after} | pause {message, key} | rewind {message}
                                             | unreadable {message} | broken {message}
    while an export is under way:            recall + keys
    recalled + entries
                                             working {seconds}: what comes next may take so much longer; no answer

The two ends may be of different versions: the worker's is the training script's. `run` has what every version knows, `about`
what later ones added, of which a worker takes what it knows; `working` is said only over records that an older collector
never has, `rewind` only by exporters that it never asks for. Every answer to `export` says with `holds` whether the worker has
something open, and with `spent` whether it was its last one.

A worker that said `filters` when it was ready knows three more words of `export`:

    only [[lsn, seq], …]         of its batches these records alone
    aside [[lsn, seq, why], …]   the tracker is not given these; points among them come back as dead
    part [start, stop]           of the others these alone, to see whether it works: nothing of it is committed. The answer has
                                 `total`, how many others there are, and `following`, the [lsn, seq] of the first one behind

Others are not asked for `only` and `part`; to them `aside` means nothing, and their trackers are given all.

Integers that travel in bulk (keys, entries, stamps) are packed as native 64-bit ones: both ends are on one machine.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["FRAMES_VERSION", "Channel", "Disconnected", "pack", "pack_pairs", "unpack", "unpack_pairs"]

FRAMES_VERSION: Final = 1
_LENGTHS: Final = struct.Struct("=II")
_MOST: Final = 1 << 30  # more is no frame of ours
_PIECE: Final = 1 << 20


class Disconnected(Exception):
    """The other end is gone."""


class Channel:
    """One end of the conversation. Used by one thread at a time, except for `close`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, header: Mapping[str, Any], payload: bytes = b"", timeout: float | None = None) -> None:
        """Send a frame.

        Raises:
            Disconnected: nobody is there to read it.
            TimeoutError: it did not go out in time; the channel is of no further use.
        """
        said = json.dumps(header).encode()
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(_LENGTHS.pack(len(said), len(payload)) + said + payload)
        except TimeoutError:
            raise
        except OSError as error:
            raise Disconnected(str(error)) from error

    def receive(self, timeout: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The next frame.

        Raises:
            Disconnected: the other end closed, or is gone.
            TimeoutError: none came, or not all of it; the channel is of no further use.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        said, carried = _LENGTHS.unpack(self._exactly(_LENGTHS.size, deadline))
        if said > _MOST or carried > _MOST:
            raise Disconnected("what came is no frame")
        header = json.loads(self._exactly(said, deadline))
        if not isinstance(header, dict):
            raise Disconnected("what came is no frame")
        return header, bytes(self._exactly(carried, deadline))

    def close(self) -> None:
        """Hang up; a `receive` that waits, here or there, ends."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster
        self._socket.close()

    def _exactly(self, size: int, deadline: float | None) -> bytearray:
        got = bytearray()
        while len(got) < size:
            if deadline is None:
                remaining = None
            elif (remaining := deadline - time.monotonic()) <= 0:
                raise TimeoutError("no answer in time")
            try:
                self._socket.settimeout(remaining)
                piece = self._socket.recv(min(size - len(got), _PIECE))
            except TimeoutError:
                raise
            except OSError as error:
                raise Disconnected(str(error)) from error
            if not piece:
                raise Disconnected("the other end closed")
            got += piece
        return got


def pack(numbers: Iterable[int]) -> bytes:
    """64-bit signed integers as bytes."""
    return array("q", numbers).tobytes()


def unpack(payload: bytes) -> list[int]:
    """What `pack` packed."""
    numbers = array("q")
    numbers.frombytes(payload)
    return numbers.tolist()


def pack_pairs(entries: Mapping[int, int]) -> bytes:
    """A mapping of 64-bit signed integers as bytes."""
    return pack(number for entry in entries.items() for number in entry)


def unpack_pairs(payload: bytes) -> dict[int, int]:
    """What `pack_pairs` packed."""
    numbers = unpack(payload)
    return dict(zip(numbers[::2], numbers[1::2], strict=True))
