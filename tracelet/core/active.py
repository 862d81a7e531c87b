"""Which run a point belongs to.

The context's run (`contextvars`), else the process's only run: a plain thread sees no context, and must not lose its points,
while trials that start runs of their own in threads are kept apart.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["begin", "current", "end", "in_context", "running"]

_context: ContextVar[Experiment | None] = ContextVar("tracelet_run", default=None)
_running: dict[str, Experiment] = {}
_only: Experiment | None = None


def current() -> Experiment | None:
    """The run that a record made here and now belongs to, or None."""
    run = _context.get()
    if run is not None and run.active:
        return run
    return _only


def in_context() -> Experiment | None:
    """The run that was started in this very context, while it runs."""
    run = _context.get()
    return run if run is not None and run.active else None


def running() -> list[Experiment]:
    """All runs of this process that have not been stopped."""
    return list(_running.values())


def begin(run: Experiment) -> None:
    """Make a run the context's."""
    _running[run.id] = run
    _context.set(run)
    _choose()


def end(run: Experiment) -> None:
    """A run was stopped."""
    _running.pop(run.id, None)
    if _context.get() is run:
        _context.set(None)
    _choose()


def _choose() -> None:
    global _only
    runs = list(_running.values())
    _only = runs[0] if len(runs) == 1 else None
