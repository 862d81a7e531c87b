"""`tracelet wait`: until what was recorded is delivered everywhere."""

from __future__ import annotations

import os
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
from tracelet.spoolfile import SpoolDirectory
from tracelet.transport import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["wait_for"]

_POLL: Final = 0.1
_START_DEADLINE: Final = 10.0
_PREFIX: Final = 4  # shorter ones are names


def wait_for(wanted: str | None, timeout: float | None) -> int:
    """Wait until everything of the runs is delivered to all of their backends.

    Args:
        wanted: a run's id, the start of it, or a name (all runs of that name); None for all runs.
        timeout: seconds; None for ever.

    Returns:
        The exit code: 0 delivered, 1 something is missing (said on stderr), 2 there is no such run.

    Raises:
        CollectorError: no collector could be started.
    """
    home = usable_home(Options.load().home)
    until = time.monotonic() + timeout if timeout is not None else float("inf")
    watch = _Watch(home, wanted)
    with _progress() as show:
        while True:
            try:
                watch.look(_ask(home, until))
            except CollectorError as error:
                if time.monotonic() >= until:
                    raise
                _tell_once(watch.told, str(error))
            else:
                if not watch.found:
                    break
                show(watch.done, watch.total)
                for words in watch.trouble():
                    _tell_once(watch.told, words)
                if not watch.missing or time.monotonic() >= until:
                    break
            time.sleep(_POLL)
    if not watch.found:
        sys.stderr.write(
            f"tracelet: {wanted!r} is neither a run's id or name nor the start of one id; `tracelet status` lists the runs\n"
        )
        return 2
    for words in watch.missing:
        sys.stderr.write(f"tracelet: {words}\n")
    return 1 if watch.missing else 0


class _Watch:
    """What is known of the runs that are waited for.

    A run that is still being written counts as what it had sent when it was first seen.

    Attributes:
        found: there are such runs, or none was asked for by name.
        missing: what is not delivered, in words.
        done: points that are accounted for in every backend, summed up.
        total: points that shall be.
        told: what was said already.
    """

    def __init__(self, home: Path, wanted: str | None) -> None:
        self.found = wanted is None
        self.missing: list[str] = []
        self.done = 0
        self.total = 0
        self.told: set[str] = set()
        self._home = home
        self._wanted = wanted
        self._sent: dict[str, int] = {}
        self._troubles: list[str] = []

    def look(self, reply: wire.StatusReply) -> None:
        """Take in how things stand."""
        spools = self._spools()
        known = {run.run_id: run.name for run in reply.runs} | {
            run_id: name for run_id, (name, _) in spools.items() if run_id not in {run.run_id for run in reply.runs}
        }
        chosen = _choose(known, self._wanted)
        self.found = self._wanted is None or bool(chosen)
        self.missing, self._troubles, self.done, self.total = [], [], 0, 0
        states = {run.run_id: run for run in reply.runs}
        for run_id in chosen:
            what = f"{known[run_id]} ({run_id[:12]})"
            _, dead = spools.get(run_id, ("", False))
            # While the collector reads a dead writer's spool in, it holds the lock that tells us so: then it counts it.
            if dead or (run_id in spools and reply.pending_spools):
                self.missing.append(f"{what}: what its processes left is not read in yet")
                continue
            if run_id in states:
                self._look_at(states[run_id], what)

    def trouble(self) -> Iterator[str]:
        """Backends that do not take anything now: worth knowing while one waits."""
        yield from self._troubles

    def _look_at(self, run: wire.RunState, what: str) -> None:
        writing = status_from_wire(run.status) is RunStatus.RUNNING
        target = self._sent.setdefault(run.run_id, run.durable) if writing else run.durable
        for backend in run.backends:
            accounted = backend.delivered + backend.collapsed + backend.rerouted + backend.dead
            self.done += min(accounted, target)
            self.total += target
            if backend.state == "paused":
                why = f": {backend.last_error}" if backend.last_error else ""
                self._troubles.append(f"{what}: {backend.kind} is paused{why}. Waiting goes on.")
            if backend.settled or (writing and accounted >= target):
                continue
            lacking = f"lacks {target - accounted} of {target} points" if accounted < target else "is not complete"
            why = f" ({backend.state}: {backend.last_error})" if backend.last_error else ""
            self.missing.append(f"{what}: {backend.kind} {lacking}{why}")

    def _spools(self) -> Mapping[str, tuple[str, bool]]:
        """By run: its name, and whether a writer is gone whose spool still lies there."""
        found: dict[str, tuple[str, bool]] = {}
        for spool in SpoolDirectory.under(self._home):
            run_id = spool.path.parent.name
            name, dead = found.get(run_id, ("", False))
            try:
                name = name or str(spool.info().run.get("name", ""))
            except (OSError, ValueError):
                if not spool.path.exists():
                    continue  # read in and removed meanwhile
            if (lock := spool.lock_if_dead()) is not None:
                os.close(lock)
                dead = True
            found[run_id] = (name, dead)
        return found


def _choose(known: Mapping[str, str], wanted: str | None) -> list[str]:
    """Ids of the runs that were asked for: an id, all of a name, or the only one whose id starts so."""
    if wanted is None:
        return list(known)
    if wanted in known:
        return [wanted]
    named = [run_id for run_id, name in known.items() if name == wanted]
    if named:
        return named
    begins = [run_id for run_id in known if run_id.startswith(wanted)] if len(wanted) >= _PREFIX else []
    return begins if len(begins) == 1 else []


def _ask(home: Path, until: float) -> wire.StatusReply:
    from tracelet.transport.wait import status

    left = min(_START_DEADLINE, max(until - time.monotonic(), 1.0))
    return status(local.ensure(home, left).address)


def _tell_once(told: set[str], words: str) -> None:
    if words not in told:
        told.add(words)
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
