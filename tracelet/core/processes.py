"""The runs of this process, across forks and pickles.

A forked child leaves its parent's streams behind. A run that is pickled is found again by its id; below the process that
pickled it (multiprocessing's spawn) it becomes a writer of the run.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tracelet.guard import Guard
from tracelet.transport.background import EXITING

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Birth", "birth", "grpc_is_lost", "known", "pickled_above", "remember"]

Birth: TypeAlias = tuple[int, str]

_FORKING = Guard("leaving the parent's spool after a fork")
_runs: weakref.WeakSet[Experiment] = weakref.WeakSet()
_grpc_is_lost = False


def remember(run: Experiment) -> None:
    """Have a run leave its stream when this process forks, and be found by its id."""
    _runs.add(run)


def known(run_id: str) -> Experiment | None:
    """This process's run with an id."""
    return next((run for run in list(_runs) if run.id == run_id), None)


def grpc_is_lost() -> bool:
    """Whether gRPC cannot be used: this process was forked from one that had imported it, or it is about to exit."""
    return _grpc_is_lost or EXITING


def birth() -> Birth:
    """What tells this process from others of its number."""
    return os.getpid(), _started(os.getpid())


def pickled_above(pickler: Birth) -> bool:
    """Whether a process is an ancestor of this one, and still the same: what it pickled came here to work with it."""
    pid = os.getppid()
    while pid > 0:
        if pid == pickler[0]:
            return _started(pid) == pickler[1]
        said = _stat(pid)  # where there is no /proc, the parent alone is asked
        pid = int(said[1]) if said else 0
    return False


def _started(pid: int) -> str:
    said = _stat(pid)
    return said[19] if said else ""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _after_fork_in_child() -> None:
    global _grpc_is_lost
    _grpc_is_lost = _grpc_is_lost or "grpc" in sys.modules
    for run in list(_runs):
        with _FORKING:
            run._leave_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
