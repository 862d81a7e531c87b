"""Delivers a past run to a backend that it never had, or once more to one that it has."""

from __future__ import annotations

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.log.base import Log, slot_of

__all__ = ["AlreadyThere", "NoSuchRun", "replay"]


class NoSuchRun(ValueError):
    """The log does not have the run."""


class AlreadyThere(ValueError):
    """The run goes to that backend already, and nobody said that it shall go there again."""


def replay(log: Log, request: wire.ReplayRequest) -> wire.ReplayReply:
    """Answer `Replay`.

    Raises:
        NoSuchRun: the log does not have it.
        AlreadyThere: it goes there already.
        Retired: its records are no longer in the log.
        ValueError: the request makes no sense.
        LogFailed: the log takes nothing.
    """
    run_id, backend, slot = request.run_id, request.backend, slot_of(request.backend)
    if not backend.kind or not backend.target:
        raise ValueError("a replay needs a backend with a target")
    for row in log.runs(run_id):
        there = next((known for known in row.spec.backends if slot_of(known) == slot), None)
        break
    else:
        raise NoSuchRun(f"the log has no run {run_id}")
    if there is None:
        log.add_backend(run_id, backend)
        points = row.durable
    elif (there.kind, there.target) != (backend.kind, backend.target):
        raise ValueError(f"what run {run_id} calls {slot} is another target: {there.target}")
    elif not request.again:
        raise AlreadyThere(f"run {run_id} goes to {slot} already")
    else:
        points = log.rewind(run_id, slot)
    return wire.ReplayReply(slot=slot, points=points)
