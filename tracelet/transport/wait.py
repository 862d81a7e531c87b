"""Waits until a run, or everything, is delivered: for `stop_logging`, `tracelet run --wait`, `tracelet wait` and `sync`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tracelet.errors import CollectorError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport.local import AS_IT_IS, Starting
from tracelet.transport.progress import Show, progress
from tracelet.transport.watch import Watch, status

__all__ = ["DEADLINE", "follow", "kept", "missing", "status", "wait_delivered"]

DEADLINE: Final = 120.0  # where no collector outlives the script, and nobody said how long
_POLL: Final = 0.1
_PATIENCE: Final = 10.0


def kept(home: Path) -> str:
    """Where what is not delivered is, and what to do about it: for the end of a wait."""
    return f"it is kept in {home}, and the next collector goes on with it; `tracelet sync` starts one"


def missing(reply: wire.StatusReply) -> str:
    """What is not delivered yet, in words; empty when nothing is."""
    watch = Watch(None)
    watch.missing = []
    watch.take_in(reply)
    return "; ".join(watch.missing)


def wait_delivered(
    home: Path,
    run_id: str = "",
    timeout: float | None = None,
    tell: Callable[[wire.StatusReply], None] | None = None,
    starting: Starting = AS_IT_IS,
) -> str:
    """Wait until everything that was recorded is delivered everywhere; a collector is started when there is none.

    A bar shows how far it is, where stderr is a terminal.

    Args:
        home: tracelet's home.
        run_id: one run; by default all.
        timeout: seconds; None waits for ever.
        tell: called with each answer.
        starting: how a collector is to be that is started here.

    Returns:
        What is missing when the time is over, and where it is kept; empty when nothing is.

    Raises:
        CollectorError: `timeout` is None, and no collector could be started.
    """

    def looked(watch: Watch) -> None:
        if tell is not None:
            for reply in watch.replies:
                tell(reply)

    with progress() as show:
        lacking = follow(Watch(home, run_id, starting=starting), timeout, show, looked)
    return f"{'; '.join(lacking)}; {kept(home)}" if lacking else ""


def follow(
    watch: Watch,
    timeout: float | None,
    show: Show,
    looked: Callable[[Watch], None],
    trouble: Callable[[CollectorError], None] | None = None,
) -> list[str]:
    """Look again and again until nothing is missing, or the time is over.

    Args:
        watch: the runs.
        timeout: seconds; None waits for ever.
        show: is shown how far it is.
        looked: called after each look.
        trouble: called when a look failed, and waiting goes on.

    Returns:
        What is missing, in words.

    Raises:
        CollectorError: `timeout` is None, and no collector could be started.
        UnknownRun: there is no run that was wanted.
    """
    until = time.monotonic() + timeout if timeout is not None else float("inf")
    while True:
        try:
            watch.look(min(_PATIENCE, max(until - time.monotonic(), 1.0)))
        except CollectorError as error:
            lacking = [str(error)]
            if timeout is None and not watch.reached:
                raise
            if trouble is not None and time.monotonic() < until:
                trouble(error)
        else:
            lacking = watch.missing
            show(watch.done, watch.total)
            looked(watch)
        if not lacking or time.monotonic() >= until:
            return lacking
        time.sleep(min(_POLL, max(until - time.monotonic(), 0.0)))
