"""`tracelet wait`: until what was recorded is delivered everywhere."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracelet.core.home import usable_home
from tracelet.core.metrics import RunStatus
from tracelet.core.options import Options
from tracelet.errors import CollectorError
from tracelet.proto.codec import status_from_wire
from tracelet.spoolfile import SpoolDirectory, SpoolInfo
from tracelet.transport import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["wait_for"]

_POLL: Final = 0.1
_START_DEADLINE: Final = 10.0
_SHORTEST_PREFIX: Final = 4


def wait_for(wanted: str | None, timeout: float | None) -> int:
    """Wait until everything of the runs is delivered to all of their backends.

    Args:
        wanted: a run's id, the start of it, or a name (all runs of that name); None for all runs.
        timeout: seconds; None for ever.

    Returns:
        The exit code: 0 delivered, 1 something is missing (said on stderr), 2 there is no such run.

    Raises:
        CollectorError: none could be started, or it did not answer, until the time was over.
    """
    home = usable_home(Options.load().home)
    until = time.monotonic() + timeout if timeout is not None else float("inf")
    watch = _Watch(home, wanted)
    said: set[str] = set()
    with _progress() as show:
        while True:
            try:
                known = watch.look(until)
            except CollectorError as error:
                if time.monotonic() >= until:
                    raise
                _say_once(said, f"{error}. Waiting goes on.")
            else:
                if not known:
                    sys.stderr.write(
                        f"tracelet: {wanted!r} is neither a run's id or name nor the start of one id; "
                        f"`tracelet status` lists the runs\n"
                    )
                    return 2
                show(watch.done, watch.total)
                for words in watch.troubles:
                    _say_once(said, f"{words}. Waiting goes on.")
                if not watch.missing or time.monotonic() >= until:
                    break
            time.sleep(min(_POLL, max(until - time.monotonic(), 0.0)))
    for words in watch.missing:
        sys.stderr.write(f"tracelet: {words}\n")
    return 1 if watch.missing else 0


class _Watch:
    """How the runs stand that are waited for.

    A run that is still being written counts as what it had sent when it was first seen.

    Attributes:
        missing: what is not delivered, in words.
        troubles: backends that take nothing now, in words.
        done: points that are accounted for in their backends, summed up.
        total: points that shall be.
    """

    def __init__(self, home: Path, wanted: str | None) -> None:
        self.missing: list[str] = []
        self.troubles: list[str] = []
        self.done = 0
        self.total = 0
        self._home = home
        self._wanted = wanted
        self._chosen: list[str] | None = None if wanted is not None else [""]
        self._sent: dict[str, int] = {}

    def look(self, until: float) -> bool:
        """Ask the collector; one is started when there is none.

        Returns:
            Whether there are such runs.

        Raises:
            CollectorError: it could not be started, or did not answer.
        """
        from tracelet.transport.wait import status

        address = local.ensure(self._home, min(_START_DEADLINE, max(until - time.monotonic(), 1.0))).address
        if self._chosen is None:
            # Before the log: a spool that is gone from here is there.
            names = {str(info.run["run_id"]): str(info.run.get("name", "")) for info in _spools(self._home)}
            names |= {run.run_id: run.name for run in status(address).runs}
            self._chosen = _choose(names, self._wanted or "") or None
            if self._chosen is None:
                return False
        self.missing, self.troubles, self.done, self.total = [], [], 0, 0
        for run_id in self._chosen:
            self._take_in(status(address, run_id), run_id)
        return True

    def _take_in(self, reply: wire.StatusReply, run_id: str) -> None:
        followed = _followed(self._home, run_id)
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
            accounted = backend.delivered + backend.collapsed + backend.rerouted + backend.dead
            self.done += min(accounted, target)
            self.total += target
            why = f": {backend.last_error}" if backend.last_error else ""
            if backend.state == "paused":
                self.troubles.append(f"{what}: {backend.kind} is paused{why}")
            if backend.settled or (writing and accounted >= target):
                continue
            lacking = (
                f"lacks {target - accounted} of {target} points"
                if accounted < target
                else "lacks the run's latest state"
            )
            self.missing.append(f"{what}: {backend.kind} {lacking}; it is {backend.state}{why}")


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


def _say_once(said: set[str], words: str) -> None:
    if words not in said:
        said.add(words)
        sys.stderr.write(f"tracelet: {words}\n")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("delivered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
