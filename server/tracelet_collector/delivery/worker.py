"""The worker process: speaks to one kind of tracker for the scheduler at the other end of its socket.

    <interpreter> -m tracelet_collector.delivery.worker <descriptor>

It runs in the Python of the training script, which has the tracker's SDK. It decodes what the log kept, hands it to the
exporter, and says what became of it. It commits nothing, and keeps nothing that a successor would need. It ends when the
scheduler hangs up, and on Linux with the scheduler's process.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tracelet.core.metrics import POINTS, Artifact, Media, Metric
from tracelet.errors import BackendNotInstalledError
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.version import __version__
from tracelet_collector.delivery.frames import FRAMES_VERSION, Channel, Disconnected, pack, pack_pairs, unpack_pairs
from tracelet_collector.delivery.locks import exclusive
from tracelet_collector.exporters.base import (
    Dead,
    Exporter,
    Item,
    Outcome,
    Paused,
    Retryable,
    Rewind,
    Run,
    Unauthorized,
)
from tracelet_collector.exporters.table import EXPORTERS

__all__ = ["main"]

_PR_SET_PDEATHSIG: Final = 1
_LAZY: Final = 2  # exports after which an SDK has loaded what it loads late
_LOCK_PATIENCE: Final = 10.0
_RUN_FIELDS: Final = frozenset(field.name for field in dataclasses.fields(Run))


def main(arguments: Sequence[str]) -> int:
    """Serve until the scheduler hangs up.

    Args:
        arguments: the descriptor of the socket.
    """
    _die_with_parent()
    gc.disable()  # an import makes a million objects that stay: to look for garbage among them is a fifth of the start
    os.dup2(2, 1)  # SDKs print; nobody is to read it but the log
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    try:
        exporter, locks = _greet(channel)
        exports = 0
        while exporter is not None:
            if exports < _LAZY:
                # What an SDK has loaded stays: the garbage collector is not to go through it again and again, from now on.
                gc.freeze()
            if exports == _LAZY - 1:
                gc.enable()
            header, payload = channel.receive()
            answer, carried = _answer(channel, exporter, locks, header, payload)
            answer["holds"] = exporter.holds
            answer["spent"] = getattr(exporter, "spent", False)
            channel.send(answer, carried)
            exports += 1
            if answer["spent"]:
                break  # what the SDK runs on is gone for good: the next worker begins anew
    except Disconnected:
        pass
    return 0


def _greet(channel: Channel) -> tuple[Exporter | None, Path]:
    header, _ = channel.receive()
    locks = Path(header["locks"])
    if header["version"] != FRAMES_VERSION:
        message = (
            f"tracelet {__version__} of {sys.executable} does not understand this collector, which is of another version. "
            "Stop it with `tracelet stop`: the next run starts one that fits"
        )
        channel.send({"say": "refused", "message": message})
        return None, locks
    try:
        exporter = _load(header["kind"])
    except Paused as error:
        channel.send({"say": "refused", "message": str(error)})
        return None, locks
    points = exporter.batch_points
    channel.send(
        {"say": "ready", "version": FRAMES_VERSION, "pid": os.getpid(), "batch_points": points, "filters": True}
    )
    return exporter, locks


def _load(kind: str) -> Exporter:
    entry = EXPORTERS.get(kind)
    if entry is None:
        raise Paused(f"tracelet {__version__} of {sys.executable} has no exporter for {kind!r}: upgrade it")
    try:
        made: Exporter = getattr(importlib.import_module(entry.module), entry.name)()
        return made
    except ModuleNotFoundError as error:
        if error.name == entry.package:
            raise Paused(str(BackendNotInstalledError(kind, entry.package, sys.executable))) from error
        traceback.print_exc()
        raise Paused(f"{sys.executable} cannot import {entry.package}: {error}. Reinstall it") from error
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise Paused(f"{sys.executable} cannot import {entry.package}: {said}. Reinstall it") from error


class _Memory:
    """The run's memory, which the scheduler keeps: asked for over the channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def recall(self, keys: Sequence[int]) -> Mapping[int, int]:
        self._channel.send({"say": "recall"}, pack(keys))
        _, payload = self._channel.receive()
        return unpack_pairs(payload)

    def working(self, seconds: float) -> None:
        self._channel.send({"say": "working", "seconds": seconds})


def _answer(
    channel: Channel, exporter: Exporter, locks: Path, header: Mapping[str, Any], payload: bytes
) -> tuple[dict[str, Any], bytes]:
    try:
        items = _decode(header, payload)
    except Exception as error:
        traceback.print_exc()
        return {"say": "unreadable", "message": f"{type(error).__name__}: {error}"}, b""
    about = {name: said for name, said in header.get("about", {}).items() if name in _RUN_FIELDS}
    run = Run(**header["run"], **about)
    state = header["state"]
    items, aside = _set_aside(run, items, header.get("aside", ()))
    start, stop = header.get("part", (0, len(items)))
    part = items[start:stop]
    try:
        with exclusive(locks, run.target, _LOCK_PATIENCE):
            outcome = exporter.export(run, part, json.loads(state) if state else {}, _Memory(channel))
        _check(outcome, part)
    except Disconnected:
        raise
    except Retryable as error:
        return {"say": "retry", "message": str(error), "after": error.retry_after}, b""
    except Paused as error:
        return {"say": "pause", "message": str(error), "key": isinstance(error, Unauthorized)}, b""
    except Rewind as error:
        return {"say": "rewind", "message": str(error)}, b""
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        return {"say": "broken", "message": said[:400]}, b""
    after = json.dumps(outcome.state)
    return {
        "say": "exported",
        "delivered": outcome.delivered,
        "collapsed": outcome.collapsed,
        "rerouted": outcome.rerouted,
        "dead": [_letter(dead) for dead in (*outcome.dead, *aside)],
        "state": None if after == state else after,
        "total": len(items),
        "following": [items[stop].lsn, items[stop].seq] if stop < len(items) else None,
    }, pack_pairs(outcome.stamps)


def _set_aside(run: Run, items: list[Item], aside: Sequence[Sequence[Any]]) -> tuple[list[Item], list[Dead]]:
    """The records that the tracker is given, and the points that it is not. What else it is not given is only told here."""
    if not aside:
        return items, []
    why = {(lsn, seq): words for lsn, seq, words in aside}
    for item in items:
        if (words := why.get((item.lsn, item.seq))) and not isinstance(item.record, POINTS):
            print(f"run {run.run_id}: {type(item.record).__name__} is left out, {words}", file=sys.stderr)  # noqa: T201
    dead = [
        Dead(item, words)
        for item in items
        if isinstance(item.record, POINTS) and (words := why.get((item.lsn, item.seq)))
    ]
    return [item for item in items if (item.lsn, item.seq) not in why], dead


def _decode(header: Mapping[str, Any], payload: bytes) -> list[Item]:
    """The records of a chunk. Its bytes are the dictionaries' definitions, then the batches."""
    view = memoryview(payload)
    names: dict[int, dict[int, pb.TagDef]] = {}
    for stream, sizes in header["dictionaries"]:
        known = names[stream] = {}
        for size in sizes:
            definition = pb.TagDef.FromString(bytes(view[:size]))
            known[definition.id] = definition
            view = view[size:]
    items: list[Item] = []
    for lsn, stream, size in header["batches"]:
        batch = pb.Batch.FromString(bytes(view[:size]))
        view = view[size:]
        items += [Item(lsn, seq, record) for seq, record in codec.decode(batch, names.setdefault(stream, {}))]
    if "only" in header:
        only = {(lsn, seq) for lsn, seq in header["only"]}
        return [item for item in items if (item.lsn, item.seq) in only]
    return items


def _check(outcome: Outcome, items: Sequence[Item]) -> None:
    points = sum(isinstance(item.record, POINTS) for item in items)
    told = outcome.delivered + outcome.collapsed + outcome.rerouted + len(outcome.dead)
    if told != points:
        raise AssertionError(f"the exporter was given {points} points and accounts for {told}")


def _letter(dead: Dead) -> dict[str, Any]:
    point = dead.item.record
    told: dict[str, Any]
    match point:
        case Metric():
            told = {"name": point.name, "value": point.value, "step": point.step, "wall_time": point.wall_time}
        case Media():
            told = {"kind": point.kind, "name": point.name, "step": point.step, "wall_time": point.wall_time}
            told |= _content(point)
        case Artifact():
            told = {"kind": "artifact", "name": point.path, "wall_time": point.wall_time} | _content(point)
        case _:
            raise AssertionError(f"{type(point).__name__} is no point")
    return {
        "lsn": dead.item.lsn,
        "seq": dead.item.seq,
        "name": told["name"],
        "error": dead.error,
        "point": json.dumps(told, ensure_ascii=False),
    }


def _content(point: Media | Artifact) -> dict[str, Any]:
    said: dict[str, Any] = {"media_type": point.media_type}
    if isinstance(point.content, bytes):
        return said | {"size": len(point.content)}
    return said | {"size": point.content.size, "sha256": point.content.sha256}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # an SDK's threads must not keep it
