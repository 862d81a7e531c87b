"""How the runs stand that somebody waits for: what is delivered, what is missing, and why."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tracelet.core.metrics import RunStatus
from tracelet.errors import CollectorError
from tracelet.proto.codec import status_from_wire
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.spoolfile import SpoolDirectory, SpoolInfo
from tracelet.transport import outdated
from tracelet.transport.channel import collector_stub, open_channel
from tracelet.transport.local import AS_IT_IS, Starting

__all__ = ["UnknownRun", "Watch", "status"]

_SHORTEST_PREFIX: Final = 4


class UnknownRun(Exception):
    """There is no such run."""


def status(address: str, run_id: str = "", timeout: float = 5.0) -> wire.StatusReply:
    """Ask a collector.

    Raises:
        CollectorError: it did not answer.
    """
    import grpc

    channel = open_channel(address)
    try:
        reply: wire.StatusReply = collector_stub(channel).Status(
            wire.StatusRequest(run_id=run_id), timeout=timeout, wait_for_ready=True
        )
    except grpc.RpcError as error:
        raise CollectorError(f"the collector at {address} did not answer: {error.details()}") from error
    finally:
        channel.close()
    return reply


class Watch:
    """How some runs stand. One that is still being written counts as what it had sent when it was first seen.

    Args:
        home: tracelet's home; None for a watch that only takes in what others have asked for.
        run_id: one run; by default all.
        wanted: instead of it, what somebody typed: an id, the start of one, or a name (all runs of that name).
        slot: of their backends only this one; by default all.
        starting: how a collector is to be that is started here.

    Attributes:
        missing: what is not delivered, in words.
        troubles: backends that take nothing now, in words.
        done: points that are accounted for in their backends, summed up.
        total: points that shall be.
        replies: what the collector said last, for each run or for all.
        reached: the last look found or started a collector, whatever it answered.
    """

    def __init__(
        self,
        home: Path | None,
        run_id: str = "",
        wanted: str | None = None,
        slot: str = "",
        starting: Starting = AS_IT_IS,
    ) -> None:
        self.missing: list[str] = ["no collector has answered yet"]
        self.troubles: list[str] = []
        self.done = 0
        self.total = 0
        self.replies: list[wire.StatusReply] = []
        self.reached = False
        self._home = home
        self._wanted = wanted
        self._slot = slot
        self._starting = starting
        self._chosen: list[str] | None = [run_id] if wanted is None else None
        self._sent: dict[str, int] = {}

    def look(self, patience: float) -> None:
        """Ask the collector; one is started when there is none, and one that is older is exchanged.

        Args:
            patience: seconds for each of these.

        Raises:
            CollectorError: it could not be started, or did not answer.
            UnknownRun: there is no run that was wanted.
        """
        assert self._home is not None
        self.reached = False
        address = outdated.current(self._home, patience, self._starting).address
        self.reached = True
        if self._chosen is None:
            # Before the log: a spool that is gone from here is there.
            names = {str(info.run["run_id"]): str(info.run.get("name", "")) for info in _spools(self._home)}
            names |= {run.run_id: run.name for run in status(address, timeout=patience).runs}
            if not (chosen := _choose(names, self._wanted or "")):
                raise UnknownRun(self._wanted)
            self._chosen = chosen
        self.replies = [status(address, run_id, patience) for run_id in self._chosen]
        self.missing, self.troubles, self.done, self.total = [], [], 0, 0
        for run_id, reply in zip(self._chosen, self.replies, strict=True):
            self.take_in(reply, run_id)

    def take_in(self, reply: wire.StatusReply, run_id: str = "") -> None:
        """Add what a collector says of a run, or of all."""
        followed = _followed(self._home, run_id) if self._home is not None else 0
        if (unread := reply.pending_spools - followed) > 0:
            whose = f"of run {run_id[:12]} " if run_id else ""
            self.missing.append(
                f"what {unread} ended {'process' if unread == 1 else 'processes'} {whose}left is not read in"
            )
        for run in reply.runs:
            self._take_in_run(run, writing=status_from_wire(run.status) is RunStatus.RUNNING and unread <= 0)

    def _take_in_run(self, run: wire.RunState, writing: bool) -> None:
        what = f"{run.name} ({run.run_id[:12]})"
        target = self._sent.setdefault(run.run_id, run.durable) if writing else run.durable
        for backend in run.backends:
            called = backend.slot or backend.kind
            if self._slot not in ("", called):
                continue
            accounted = backend.delivered + backend.collapsed + backend.rerouted + backend.dead
            self.done += min(accounted, target)
            self.total += target
            why = f": {backend.last_error}" if backend.last_error else ""
            if backend.state == "paused":
                self.troubles.append(f"{what}: {called} is paused{why}")
            if backend.settled or (writing and accounted >= target):
                continue
            lacking = (
                f"lacks {target - accounted} of {target} points"
                if accounted < target
                else "lacks the run's latest state, or dead letters that are tried again"
                if backend.dead
                else "lacks the run's latest state"
            )
            self.missing.append(f"{what}: {called} {lacking}; it is {backend.state}{why}")


def _choose(names: Mapping[str, str], wanted: str) -> list[str]:
    """Ids of the runs that are meant: an id, all of a name, or the only one whose id starts so."""
    if wanted in names:
        return [wanted]
    if named := [run_id for run_id, name in names.items() if name == wanted]:
        return named
    starting = [run_id for run_id in names if run_id.startswith(wanted)] if len(wanted) >= _SHORTEST_PREFIX else []
    return starting if len(starting) == 1 else []


def _spools(home: Path, run_id: str = "") -> Iterator[SpoolInfo]:
    for spool in SpoolDirectory.under(home):
        if run_id in ("", spool.path.parent.name):
            try:
                yield spool.info()
            except (OSError, ValueError):
                continue  # gone meanwhile; or damaged: the collector sees to that


def _followed(home: Path, run_id: str) -> int:
    """Spools that are still being written and that the collector reads along (forked children): never read to the end."""
    here = socket.gethostname()
    return sum(
        not info.sends and info.writer.get("host") == here and _lives(int(info.writer.get("pid", 0)))
        for info in _spools(home, run_id)
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
