"""A worker process, as the scheduler sees it: started, asked, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet.errors import BackendNotInstalledError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.backoff import Patience
from tracelet_collector.delivery.credentials import worker_environment
from tracelet_collector.delivery.frames import (
    FRAMES_VERSION,
    Channel,
    Disconnected,
    pack_pairs,
    unpack,
    unpack_pairs,
)
from tracelet_collector.delivery.spawner import Spawner
from tracelet_collector.delivery.suspicion import Tried, Try
from tracelet_collector.exporters.base import Paused, Retryable, Rewind, Unauthorized
from tracelet_collector.exporters.table import EXPORTERS
from tracelet_collector.home import blobs_path
from tracelet_collector.log.base import Chunk, DeadLetter, Progress, slot_of

__all__ = ["Hung", "Shipment", "Unreadable", "WorkerFailed", "WorkerProcess"]

_LOG_BYTES: Final = 4 * 1024 * 1024
_TAIL_BYTES: Final = 2000
_SEND: Final = 60.0
_END: Final = 10.0  # for a process that hung up to be gone


class WorkerFailed(Exception):
    """The worker died, hung or broke over a chunk; it is of no further use."""


class Hung(WorkerFailed):
    """It gave no answer in time."""


class Unreadable(Exception):
    """The log's own bytes cannot be decoded."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a worker is given at once.

    Attributes:
        run: whose it is.
        backend: where it goes.
        chunk: what the log has after the cursor.
        done: what is done of it.
        aside: records that are left out, by lsn and position, and why.
    """

    run: wire.RunSpec
    backend: wire.BackendSpec
    chunk: Chunk
    done: Try = field(default_factory=Try)
    aside: Mapping[tuple[int, int], str] = field(default_factory=dict)


class _Origin(NamedTuple):
    home: Path
    kind: str
    interpreter: str
    log: Path
    log_start: int  # where this worker's words begin


class WorkerProcess:
    """A worker. Used by one thread, except for `pid` and `terminate`.

    Attributes:
        batch_points: how many points a chunk should have, at best.
        holds: it has something open that another worker would have to build anew.
        spent: it has given its last answer, and ends.
        filters: it takes a part of the records of a chunk, and leaves some out; those of older versions do not.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, origin: _Origin, patience: Patience) -> None:
        self.batch_points = 0
        self.holds = False
        self.spent = False
        self.filters = False
        self._unsent: Exception | None = None
        self._process = process
        self._channel = channel
        self._origin = origin
        self._patience = patience

    @classmethod
    def launch(
        cls, spawner: Spawner, home: Path, kind: str, interpreter: str, credentials: str, patience: Patience
    ) -> WorkerProcess:
        """Start a worker. It is ready after `greet`.

        Raises:
            Paused: it cannot be started before somebody does something.
            Retryable: it cannot be started now.
        """
        entry = EXPORTERS.get(kind)
        if entry is None:
            raise Paused(f"this collector has no exporter for {kind!r}: upgrade it, and stop it with `tracelet stop`")
        environment = worker_environment(home, credentials, entry)
        interpreter = interpreter or sys.executable
        log = home / f"worker-{kind}.log"
        start = _rotated(log)
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        command = [interpreter, "-m", "tracelet_collector.delivery.worker", str(theirs.fileno())]
        try:
            process = spawner.spawn(command, environment, theirs.fileno(), log)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            channel.close()
            raise Paused(
                f"{interpreter}, the Python of the training script, cannot be started ({error.strerror}): "
                "bring it back, or start the run again with another"
            ) from error
        except OSError as error:
            channel.close()
            raise Retryable(f"no worker can be started: {error}") from error
        finally:
            theirs.close()
        return cls(process, channel, _Origin(home, kind, interpreter, log, start), patience)

    def greet(self) -> None:
        """Wait until the worker is ready; one that will not be is ended.

        Raises:
            Paused: it cannot work before somebody does something.
            Retryable: it ended, or was not ready in time.
        """
        try:
            self._greet()
        except BaseException:
            self.close(0.0)
            raise

    def _greet(self) -> None:
        home, kind, interpreter, log, start = self._origin
        hello = {"do": "hello", "version": FRAMES_VERSION, "kind": kind, "locks": str(home / "locks")}
        try:
            self._channel.send(hello, timeout=_SEND)
            header, _ = self._channel.receive(self._patience.start)
        except TimeoutError:
            raise Retryable(
                f"the worker of {kind} was not ready within {self._patience.start:g} s; see {log}"
            ) from None
        except Disconnected:
            self._process.wait(_END)
            said = _tail(log, start)
            if "tracelet" in said.rpartition("No module named")[2]:
                raise Paused(str(BackendNotInstalledError(kind, f"tracelet[{kind}]", interpreter))) from None
            last = said.strip().rpartition("\n")[2]
            raise Retryable(
                f"the worker of {kind} {self._how_it_ended()} at its start: {last[:300]} (see {log})"
            ) from None
        if header["say"] != "ready":
            raise Paused(header["message"])
        self.batch_points = header["batch_points"]
        self.filters = bool(header.get("filters"))

    @property
    def pid(self) -> int:
        """The process's id; 0 when it has ended."""
        return self._process.pid if self._process.poll() is None else 0

    def send(self, shipment: Shipment) -> None:
        """Give it a chunk to deliver. Once it is given, `answer` tells how that went.

        Args:
            shipment: what goes where.
        """
        self._unsent = None
        try:
            self._channel.send(*_export_frame(shipment, blobs_path(self._origin.home)), timeout=_SEND)
        except (TimeoutError, Disconnected) as error:
            self._unsent = error

    def answer(self, shipment: Shipment, recall: Callable[[Sequence[int]], Mapping[int, int]]) -> Progress | Tried:
        """Wait until a chunk is delivered.

        Args:
            shipment: what it was given.
            recall: reads the exporter's memory.

        Returns:
            What is to be committed; of a shipment of some records, what was seen.

        Raises:
            Retryable, Paused, Rewind: the exporter's words.
            Unreadable: the worker cannot decode the chunk.
            WorkerFailed: the worker is of no further use.
        """
        try:
            header, payload = self._listen(recall)
            self.holds, self.spent = bool(header.get("holds")), bool(header.get("spent"))
        except TimeoutError:
            raise Hung(f"the worker gave no answer within {self._patience.export:g} s") from None
        except Disconnected:
            try:
                self._process.wait(_END)
            except subprocess.TimeoutExpired:
                raise WorkerFailed("the worker hung up") from None
            raise WorkerFailed(f"the worker {self._how_it_ended()}") from None
        match header["say"]:
            case "exported" if shipment.done.part is not None:
                following = header.get("following")
                return Tried(int(header.get("total", 0)), (following[0], following[1]) if following else None)
            case "exported":
                run_id, slot = shipment.run.run_id, slot_of(shipment.backend)
                return Progress(
                    until=shipment.chunk.until,
                    epoch=shipment.chunk.epoch,
                    only=shipment.chunk.only,
                    delivered=header["delivered"],
                    collapsed=header["collapsed"],
                    rerouted=header["rerouted"],
                    dead=[DeadLetter(run_id, slot, **letter) for letter in header["dead"]],
                    state=header["state"],
                    stamps=unpack_pairs(payload),
                )
            case "retry":
                raise Retryable(header["message"], header["after"])
            case "pause":
                raise (Unauthorized if header.get("key") else Paused)(header["message"])
            case "rewind":
                raise Rewind(header["message"])
            case "unreadable":
                raise Unreadable(header["message"])
            case _:
                raise WorkerFailed(f"the exporter failed: {header.get('message', 'an unknown answer')}")

    def _listen(self, recall: Callable[[Sequence[int]], Mapping[int, int]]) -> tuple[dict[str, Any], bytes]:
        if self._unsent is not None:
            raise self._unsent
        more = 0.0
        while True:
            header, payload = self._channel.receive(self._patience.export + more)
            if header["say"] == "working":
                more = header["seconds"]
                continue
            more = 0.0
            if header["say"] != "recall":
                return header, payload
            try:
                entries = recall(unpack(payload))
            except BaseException:
                self.close(0.0)  # it waits for an answer that does not come
                raise
            self._channel.send({"do": "recalled"}, pack_pairs(entries), timeout=_SEND)

    def terminate(self) -> None:
        """Kill it, whatever it does."""
        self._process.kill()

    def close(self, grace: float) -> None:
        """End it: by hanging up, then by signal.

        Args:
            grace: seconds for the first.
        """
        self._channel.close()
        for end, wait in ((None, grace), (self._process.terminate, 2.0), (self._process.kill, 10.0)):
            if end is not None:
                end()
            try:
                self._process.wait(wait)
            except subprocess.TimeoutExpired:
                continue
            return

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            try:
                return f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        return f"ended with code {code}"


def _export_frame(shipment: Shipment, blobs: Path) -> tuple[dict[str, Any], bytes]:
    run, chunk = shipment.run, shipment.chunk
    pieces: list[bytes] = []
    dictionaries = []
    for stream, definitions in chunk.dictionaries.items():
        dictionaries.append((stream, [len(definition) for definition in definitions]))
        pieces += definitions
    pieces += [batch.payload for batch in chunk.batches]
    more: dict[str, Any] = {} if shipment.done.part is None else {"part": shipment.done.part}
    if shipment.aside:
        more["aside"] = [(lsn, seq, why) for (lsn, seq), why in shipment.aside.items()]
    if chunk.only:
        more["only"] = list(chunk.only)
    return more | {
        "do": "export",
        "run": {
            "run_id": run.run_id,
            "name": run.name,
            "project": run.project,
            "target": shipment.backend.target,
            "created": run.created,
        },
        "about": {
            "parent": run.parent,
            "group": run.group,
            "notes": run.notes,
            "tags": dict(run.tags),
            "blobs": str(blobs.absolute()),
            "redriven": bool(chunk.only),
        },
        "state": chunk.state,
        "dictionaries": dictionaries,
        "batches": [(batch.lsn, batch.stream, len(batch.payload)) for batch in chunk.batches],
    }, b"".join(pieces)


def _rotated(log: Path) -> int:
    """Make room in a worker's log; where the next words will be."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        os.close(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return 0
    if size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
        return _rotated(log)
    return size


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(start, file.tell() - _TAIL_BYTES))
        return file.read().decode(errors="replace")
