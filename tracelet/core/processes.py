"""The runs of this process, across forks, pickles, and the processes that it starts.

A forked child leaves its parent's streams behind. A run that is pickled is found again by its id; below the process that
pickled it (multiprocessing's spawn) it becomes a writer of the run. A process that has one run leaves its id in its
environment, for those that it starts: `TRACELET_RUN_ID`, with whose it is, in which home, and in which batch job.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from tracelet.guard import Guard
from tracelet.transport.background import EXITING

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = [
    "Birth",
    "Launcher",
    "batch_job",
    "birth",
    "came_by_fork",
    "given",
    "grpc_is_lost",
    "home_above",
    "is_python",
    "known",
    "launcher_of",
    "leave_to_children",
    "pickled_above",
    "put_back",
    "remember",
    "renamed",
    "run_above",
    "run_is_ours",
    "set_aside",
    "was_given",
]

Birth: TypeAlias = tuple[int, str]


class Launcher(NamedTuple):
    """A process that starts others.

    Attributes:
        boot: of its machine.
        pid: its number.
        started: when, in the kernel's ticks; empty where nobody says.
    """

    boot: str
    pid: int
    started: str


_FORKING = Guard("leaving the parent's spool after a fork")
_runs: weakref.WeakSet[Experiment] = weakref.WeakSet()
_grpc_is_lost = False
_came_by_fork: set[str] = set()
_before: Mapping[str, str | None] | None = None  # what the environment said before this process left its run's id there
_LEFT: Final = ("TRACELET_RUN_ID", "TRACELET_RUN_OWNER", "TRACELET_RUN_HOME", "TRACELET_RUN_JOB")
_BATCH_JOB: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


def remember(run: Experiment) -> None:
    """Have a run leave its stream when this process forks, and be found by its id."""
    _runs.add(run)


def known(run_id: str) -> Experiment | None:
    """This process's run with an id; one that records rather than one that was stopped."""
    found = [run for run in list(_runs) if run.id == run_id]
    return next((run for run in found if run.active), found[0] if found else None)


def came_by_fork(run_id: str) -> bool:
    """Whether this process, as it was forked, recorded to the run of the process that forked it."""
    return run_id in _came_by_fork


def run_above() -> str:
    """The id of the run that a process above this one left for it, or `tracelet run`; empty for none."""
    run_id = given("TRACELET_RUN_ID")
    if not run_id or given("TRACELET_RUN_OWNER") == str(os.getpid()):
        return ""
    # A job that the script submitted takes its environment along, but is no part of its run.
    job = given("TRACELET_RUN_JOB")
    return run_id if job is None or job == batch_job() else ""


def run_is_ours() -> bool:
    """Whether `tracelet run` became this process: the run that the environment names is its own to begin and end."""
    return bool(given("TRACELET_RUN_ID")) and given("TRACELET_RUN_OWNER") == str(os.getpid())


def home_above() -> Path | None:
    """The home of the run above, where the process that left it said so."""
    home = given("TRACELET_RUN_HOME")
    return Path(home) if home else None


def given(name: str) -> str | None:
    """A variable of the run above, as this process was given it."""
    return os.environ.get(name) if _before is None else _before[name]


def leave_to_children(run: Experiment | None) -> None:
    """Leave a run to the processes that this one starts from now on, or, with None, what it was given itself."""
    global _before
    if run is not None and run.id == os.environ.get("TRACELET_RUN_ID"):
        return  # ours or inherited: they will find it
    if _before is None:
        if run is None:
            return
        _before = {name: os.environ.get(name) for name in _LEFT}
    if run is not None:
        os.environ.update(zip(_LEFT, (run.id, str(os.getpid()), str(run.plan.home), batch_job()), strict=True))
        return
    before, _before = _before, None
    for name, value in before.items():
        if value is not None:
            os.environ[name] = value
        elif _is_alone():
            os.environ.pop(name, None)
        else:
            os.environ[name] = ""  # whoever copies it in another thread would miss a name that he has just seen


def renamed(before: str, run_id: str) -> None:
    """The run that the environment names has another id now."""
    global _before
    if os.environ.get("TRACELET_RUN_ID") == before:
        os.environ["TRACELET_RUN_ID"] = run_id
    if _before is not None and _before["TRACELET_RUN_ID"] == before:
        _before = {**_before, "TRACELET_RUN_ID": run_id}


def set_aside() -> Mapping[str, str | None] | None:
    """Forget for a while what the environment said before this process left a run there. It goes to `put_back`."""
    global _before
    before, _before = _before, None
    return before


def put_back(before: Mapping[str, str | None] | None) -> None:
    """Know again what the environment said before."""
    global _before
    _before = before


def _is_alone() -> bool:
    me = threading.current_thread()
    return all(thread is me or thread.name.startswith("tracelet-") for thread in threading.enumerate())


def batch_job() -> str:
    """The batch job that this process belongs to; empty for none."""
    return next((os.environ[name] for name in _BATCH_JOB if os.environ.get(name)), "")


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


def was_given(pid: int, variable: str) -> bool:
    """Whether a process had a variable when it started; yes, where nobody can tell."""
    try:
        return f"\0{variable}=".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self/environ").exists()
    except OSError:
        return False  # another user's


def launcher_of(variable: str) -> Launcher | None:
    """The process that gave this one a variable, and its likes.

    Returns:
        What tells it from all others of all times. None when this process has the variable from a Python that was given it
        too: then it is not one of those that the launcher started, but a child of one.
    """
    pid = os.getppid()
    while pid > 0 and was_given(pid, variable) and (said := _stat(pid)):
        if _program(pid) == _program(os.getpid()):
            return None
        pid = int(said[1])  # a shell between the two
    return Launcher(_boot(), pid, _started(pid))


def is_python(pid: int) -> bool:
    """Whether a process runs a Python; yes, where nobody can tell."""
    if not Path("/proc/self/exe").exists():
        return True
    program = _program(pid)
    return program == _program(os.getpid()) or "python" in os.path.basename(program)


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    said = _stat(pid)
    return said[19] if said else ""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _after_fork_in_child() -> None:
    global _grpc_is_lost, _before
    _grpc_is_lost = _grpc_is_lost or "grpc" in sys.modules
    _before = None  # what the parent left for its children is what this one was given
    _came_by_fork.clear()
    for run in list(_runs):
        if run.active:
            _came_by_fork.add(run.id)
        with _FORKING:
            run._leave_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
