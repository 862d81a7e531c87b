"""`tracelet wait`: until what was recorded is delivered everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tracelet.commands.calling import starting
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.errors import CollectorError
from tracelet.transport.progress import progress
from tracelet.transport.wait import follow, kept
from tracelet.transport.watch import UnknownRun, Watch

__all__ = ["deliver", "wait_for"]

_STUCK_AFTER: Final = 30.0  # seconds in which nothing of a run was delivered
_STUCK_LINES: Final = 3


def wait_for(wanted: str | None, timeout: float | None) -> int:
    """Wait until everything of the runs is delivered to all of their backends.

    Args:
        wanted: a run's id, the start of it, or a name (all runs of that name); None for all runs.
        timeout: seconds; None for ever.

    Returns:
        The exit code: 0 delivered, 1 something is missing (said on stderr), 2 there is no such run.

    Raises:
        CollectorError: none can be started, and there is no time at which to stop trying.
    """
    options = Options.load()
    home = usable_home(options.home)
    try:
        watch = deliver(home, Watch(home, wanted=wanted, starting=starting(options)), timeout)
    except UnknownRun:
        sys.stderr.write(
            f"tracelet: {wanted!r} is neither a run's id or name nor the start of one id; `tracelet status` lists the runs\n"
        )
        return 2
    return 1 if watch.missing else 0


def deliver(home: Path, watch: Watch, timeout: float | None, lines: Callable[[str], None] | None = None) -> Watch:
    """Wait, show how far it is, and say on stderr what holds it up and, when the time is over, what is missing.

    Args:
        home: tracelet's home.
        watch: the runs.
        timeout: seconds; None for ever.
        lines: takes a line now and then, where no bar can be shown.

    Raises:
        CollectorError: none can be started, and there is no time at which to stop trying.
        UnknownRun: there is no run that was wanted.
    """
    said: set[str] = set()

    def say_once(words: str) -> None:
        if words not in said:
            said.add(words)
            sys.stderr.write(f"tracelet: {words}. Waiting goes on.\n")

    since: dict[str, float] = {}

    def looked(watch: Watch) -> None:
        for words in watch.troubles:
            say_once(words)
        now = time.monotonic()
        for words in set(since) - set(watch.missing):
            del since[words]
        stuck = [words for words in watch.missing if now - since.setdefault(words, now) >= _STUCK_AFTER]
        for words in stuck[:_STUCK_LINES]:
            say_once(words)

    def trouble(error: CollectorError) -> None:
        say_once(str(error))

    with progress(lines, whole=True) as show:
        watch.missing = follow(watch, timeout, show, looked, trouble)
    for words in watch.missing:
        sys.stderr.write(f"tracelet: {words}\n")
    if watch.missing:
        sys.stderr.write(f"tracelet: {kept(home)}\n")
    return watch
