"""Which run a point belongs to.

The context's run (`contextvars`), else the process's only run: a plain thread sees no context, and must not lose its points,
while trials that start runs of their own in threads are kept apart. Runs that are nested count as one there: the innermost, or,
of several within one, that one. In a muted context (a library only tries the script out) points belong to none. A run that was
started apart gets only the points that name it.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tracelet.core import nesting

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = [
    "apart",
    "begin",
    "begins_late",
    "current",
    "enclosing",
    "end",
    "here",
    "in_context",
    "is_apart",
    "is_muted",
    "late",
    "lent",
    "muted",
    "put_back",
    "renamed",
    "running",
    "set_aside",
    "superseded",
]

_context: ContextVar[Experiment | None] = ContextVar("tracelet_run", default=None)
_muted: ContextVar[bool] = ContextVar("tracelet_muted", default=False)
_apart: ContextVar[bool] = ContextVar("tracelet_apart", default=False)
_late: ContextVar[bool] = ContextVar("tracelet_late", default=False)
_running: dict[str, Experiment] = {}
_set_apart: weakref.WeakSet[Experiment] = weakref.WeakSet()
_tasks: dict[str, weakref.ref[Any]] = {}
_only: Experiment | None = None
_changing = threading.RLock()  # a signal handler may start or stop a run in the middle of that


def current() -> Experiment | None:
    """The run that a record made here and now belongs to, or None."""
    return None if _muted.get() else here()


def here() -> Experiment | None:
    """The same, muted or not."""
    run = _context.get()
    while run is not None:
        if run.active:
            return run
        run = nesting.around(run)
    return _only


def in_context() -> Experiment | None:
    """The run that was started in this very context, while it runs."""
    run = None if _muted.get() else _context.get()
    while run is not None and not run.active:
        run = nesting.around(run)
    return run


def enclosing() -> Experiment | None:
    """The run that one which is started here and now as a nested one is within, or None.

    That is the context's. In a thread that has none, of the runs that the main thread started the innermost: what another
    thread runs is beside it. In the main thread, where what has a context of its own is another task's or a generator's, the
    innermost of those whose task is over.
    """
    run = _around(_context.get())
    if run is not None:
        return run
    runs = nesting.of_main_thread(_recording())
    if threading.current_thread() is threading.main_thread():
        runs = [run for run in runs if _is_left(run)]
    return nesting.shared(runs)


def is_muted() -> bool:
    """Whether nothing that happens here and now is recorded."""
    return _muted.get()


@contextmanager
def muted() -> Iterator[None]:
    """Record nothing of what happens in a block, in this context."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


@contextmanager
def apart() -> Iterator[None]:
    """Have the runs that start in a block be nobody's active one: only what names them is recorded in them.

    They are within another one as any nested run, and end with it.
    """
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def is_apart(run: Experiment) -> bool:
    """Whether a run was started apart."""
    return run in _set_apart


@contextmanager
def lent(run: Experiment) -> Iterator[None]:
    """Have a run be the context's for a block, if that has none: in a thread of a library's pool.

    What the block starts, and leaves running, is the context's behind it, as ever.
    """
    if _around(_context.get()) is not None:
        yield
        return
    _context.set(run)
    try:
        yield
    finally:
        if _context.get() is run:
            _context.set(None)


def begins_late() -> bool:
    """Whether a run that is started here and now has no stream before its first record."""
    return _late.get()


@contextmanager
def late() -> Iterator[None]:
    """Start runs in a block that leave nothing anywhere, unless something is recorded in them."""
    token = _late.set(True)
    try:
        yield
    finally:
        _late.reset(token)


def superseded() -> Experiment | None:
    """The run that one which starts here and now takes the place of, with all that is within it.

    That is the context's, also one whose stop was interrupted; of nested ones the outermost. Or the process's only run, when
    the asyncio task that started it is over: its context will never come back. (A notebook runs each of its cells in a task
    of its own.)
    """
    run = _around(_context.get())
    if run is not None:
        return nesting.outermost(run, running())
    run = _only
    return nesting.outermost(run, running()) if run is not None and _is_left(run) else None


def running() -> list[Experiment]:
    """All runs of this process that have not been stopped."""
    return list(_running.values())


def begin(run: Experiment, outer: Experiment | None = None, options: Options | None = None) -> None:
    """Make a run the context's.

    Args:
        run: the run.
        outer: the run that it is within.
        options: what it was started with.
    """
    with _changing:
        alone = _apart.get()
        by_context = outer is not None and not alone and (outer is _around(_context.get()) or _is_left(outer))
        nesting.put(run, outer, by_context, options)
        _running[run.id] = run
        if alone:
            _set_apart.add(run)
            return
        if (task := _task()) is not None:
            _tasks[run.id] = weakref.ref(task)
        _context.set(run)
        _choose()


def end(run: Experiment) -> None:
    """A run was stopped."""
    with _changing:
        _running.pop(run.id, None)
        _tasks.pop(run.id, None)
        if _context.get() is run:
            _context.set(_around(nesting.around(run)))
        _choose()


def renamed(run: Experiment, before: str) -> None:
    """A run has another id now."""
    with _changing:
        if _running.get(before) is run:
            _running[run.id] = _running.pop(before)
        if before in _tasks:
            _tasks[run.id] = _tasks.pop(before)
        _choose()


def set_aside() -> tuple[Any, ...]:
    """Forget all runs for a while. What was there goes to `put_back`."""
    with _changing:
        before = (dict(_running), dict(_tasks), _context.get())
        _running.clear()
        _tasks.clear()
        _context.set(None)
        _choose()
    return before


def put_back(before: tuple[Any, ...]) -> None:
    """Know the runs again that were there before."""
    with _changing:
        runs, tasks, run = before
        _running.update(runs)
        _tasks.update(tasks)
        _context.set(run)
        _choose()


def _choose() -> None:
    global _only
    _only = nesting.shared(_recording())


def _recording() -> list[Experiment]:
    """The runs that record; all of them, when none does. Those apart do not count."""
    runs = [run for run in _running.values() if run not in _set_apart]
    return [run for run in runs if run.active] or runs


def _is_left(run: Experiment) -> bool:
    """Whether the asyncio task that started a run is over: its context will never come back."""
    if (of := _tasks.get(run.id)) is None:
        return False
    task = of()
    return task is None or task.done()


def _around(run: Experiment | None) -> Experiment | None:
    """A run, or the next one around it that has not been stopped."""
    while run is not None and run.id not in _running:
        run = nesting.around(run)
    return run


def _task() -> Any:
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else asyncio.current_task()
    except (RuntimeError, AttributeError):  # no loop runs in this thread; asyncio is being imported by another
        return None


def _fresh_lock() -> None:
    global _changing
    _changing = threading.RLock()


os.register_at_fork(after_in_child=_fresh_lock)  # a thread that is not there any more may hold the parent's
