"""`tracelet sync`: after everything was killed, or on another machine: take in what is left, and deliver it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tracelet.commands.asking import ask
from tracelet.commands.calling import starting
from tracelet.commands.taking_in import Copy, NotTaken, put_away, spools_in, take_in
from tracelet.commands.wait import deliver
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.core.targets import leave_key
from tracelet.errors import CollectorError, ConfigurationError
from tracelet.transport import local, outdated
from tracelet.transport.watch import Watch

__all__ = ["sync"]

_POLL: Final = 0.05
_LOOK_EVERY: Final = 2.0
_START_DEADLINE: Final = 10.0


def sync(folder: Path | None, timeout: float | None, *, keep: bool) -> int:
    """Deliver everything that this home has, and that another folder has.

    Args:
        folder: another home, or a folder of spools; None for this home alone.
        timeout: seconds; None for as long as it takes.
        keep: leave the folder's spools where they are.

    Returns:
        The exit code: 0 when all is delivered, 1 when something is missing (said on stderr).

    Raises:
        ConfigurationError: the folder cannot be taken in from.
        CollectorError: none can be started, and there is no time at which to stop trying.
    """
    home = usable_home(Options.load().home)
    until = time.monotonic() + timeout if timeout is not None else float("inf")
    whole = folder is None or _bring(home, folder.absolute(), until, keep)
    left = None if timeout is None else max(until - time.monotonic(), 0.0)
    _leave_keys(home)
    watch = deliver(home, Watch(home, starting=starting(Options.load())), left, _line)
    if watch.missing:
        return 1
    _line(f"everything is delivered: {watch.total:,} points")
    return 0 if whole else 1


def _leave_keys(home: Path) -> None:
    """What this environment has of keys is for the runs that wait to be delivered, where their own are refused."""
    waiting = {
        (backend.kind, backend.target)
        for run in ask(home).reply.runs
        for backend in run.backends
        if not backend.settled
    }
    for kind, target in sorted(waiting):
        if leave_key(home, kind, target):
            _line(f"{kind} at {target}: the credentials of this environment are tried where a run's own are refused")


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _bring(home: Path, folder: Path, until: float, keep: bool) -> bool:
    """Take the folder's spools in. False: some are left there."""
    _check(home, folder)
    copies: list[Copy] = []
    left = 0
    for spool in spools_in(folder):
        try:
            copies.append(take_in(home, spool))
        except NotTaken as why:
            left += 1
            sys.stderr.write(f"tracelet: {spool.path} stays: {why}\n")
        except OSError as error:
            left += 1
            sys.stderr.write(
                f"tracelet: {spool.path} stays: it cannot be copied to {home}: {error.strerror or error}\n"
            )
    if (folder / "log" / "tracelet.db").exists():
        sys.stderr.write(
            f"tracelet: {folder} has a log of its own, which is left alone; "
            f"`TRACELET_HOME={folder} tracelet sync` delivers it\n"
        )
    new = [copy for copy in copies if copy.here is not None]
    if not copies and not left:
        _line(f"no spools in {folder}")
    _adopted(home, new, until)
    taken = 0
    for copy in copies:
        if copy.here is not None and copy.here.exists():
            left += 1
            sys.stderr.write(f"tracelet: {copy.source.path} is copied, and waits in {copy.here} to be read in\n")
        elif put_away(home, copy, keep=keep):
            taken += copy.here is not None
        else:
            left += 1
            sys.stderr.write(f"tracelet: {copy.source.path} is damaged: see {home / 'collector.log'}\n")
    if copies:
        old = len(copies) - len(new)
        _line(f"took in {taken} spools of {folder}" + (f"; {old} were here already" if old else ""))
    return not left


def _check(home: Path, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    if folder.resolve() in (home.resolve(), (home / "spool").resolve()):
        raise ConfigurationError(f"{folder} is this home's own: `tracelet sync` without it does what you want")
    for place in (folder, folder.parent):
        if (pid := local.holder(place)) is not None:
            raise ConfigurationError(
                f"a collector (pid {pid or 'unknown'}) serves {place}, and delivers what it has: see "
                f"`TRACELET_HOME={place} tracelet wait`"
            )


def _adopted(home: Path, copies: Sequence[Copy], until: float) -> None:
    """Wait until a collector has adopted them, or the time is over."""
    next_look = 0.0
    while any(copy.here is not None and copy.here.exists() for copy in copies):
        now = time.monotonic()
        if now >= until:
            return
        if now >= next_look:
            next_look = now + _LOOK_EVERY
            try:
                outdated.current(home, min(_START_DEADLINE, max(until - now, 1.0)), starting(Options.load()))
            except CollectorError:
                if until == float("inf"):
                    raise
        time.sleep(_POLL)
