"""A run within the active one, for as long as a library works on one thing: a trial, a step.

Whatever goes wrong here, the library's work goes on, and what it logs is recorded in the run around.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

from tracelet import exits, lifetime
from tracelet.core import active, captive
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import RunStatus
from tracelet.guard import Guard
from tracelet.interface import start_logging

__all__ = ["around", "begin", "end"]

# Seconds that a library waits until what a run has recorded is durable: it may have thousands, and there may be no collector.
_PATIENCE: Final = 0.2
_BEGINNING = Guard("beginning a run within the active one")
_ENDING = Guard("ending a run within the active one")
_late: weakref.WeakSet[Experiment] = weakref.WeakSet()


def around() -> Experiment | None:
    """The run that one which begins here and now is within: not what another thread works on. None in a muted context."""
    return None if active.is_muted() else active.enclosing() or active.current()


def begin(
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    apart: bool = False,
    late: bool = False,
    **settings: Any,
) -> Experiment | None:
    """Begin a run within the active one, in this context.

    Args:
        name: the run's name.
        params: its parameters.
        tags: its tags.
        apart: it does not become the active one: only what names it is recorded in it. For things that a library works on in
            turn, or elsewhere.
        late: there is no such run in any tracker, unless something is recorded in it. Processes that are forked before that
            belong to the run around. (Parameters would be a record.)
        settings: more arguments of `start_logging`.

    Returns:
        The run; None when there is none around it that records, in a muted context, and when it cannot be begun.
    """
    run = None
    with _BEGINNING:
        outer = active.current()
        if outer is not None and outer.active:
            if (captor := captive.captor()) is not None and outer is captor.stand_in:
                captor.keep()
            with active.apart() if apart else nullcontext(), active.late() if late else nullcontext():
                run = start_logging(name, config=dict(params or {}), tags=dict(tags or {}), nested=True, **settings)
            if late:
                _late.add(run)
    return run


def end(run: Experiment | None, status: RunStatus | None = None, reason: str = "") -> None:
    """End a run that `begin` began; what was active before is again. What it recorded is kept, whoever carries it away.

    Args:
        run: the run, or None: then nothing is done.
        status: how it ended; by default as the exception says that is being handled, else finished.
        reason: why.
    """
    if run is None:
        return
    with _ENDING:
        if run.active:
            how = exits.outcome(run.began_during) if status is None else (status, reason)
            lifetime.hand_over(run, how, _PATIENCE)
            lifetime.deactivate(run)


def _leave_parents() -> None:
    """In a forked child: a run that has no stream yet is not the child's to begin, nobody would end it."""
    for run in list(_late):
        if not run.begun and run.active:
            run.end(RunStatus.FINISHED, "")
            active.end(run)


os.register_at_fork(after_in_child=_leave_parents)
