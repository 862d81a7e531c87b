"""Which attempt of a job this is, whether its launcher starts it again when it fails, and the end of a run that waits for that.

A worker of torchrun that ends is started again as long as torchrun has restarts left, or when another worker fails. So the end
of one attempt is not the end of its run:

- A spool's `spool.json` names the launcher (`writer["restarts"]`): while that lives, the collector does not call a run killed
  whose writer is gone.
- An end that is said while restarts are left waits: a spool that holds nothing, unlocked, whose `writer["end"]` is how the run
  ends unless the next attempt begins before the launcher is gone.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.jobs import ELASTIC, number, said
from tracelet.core.metrics import RunStatus
from tracelet.core.plan import RunPlan
from tracelet.core.processes import is_python, launcher_of, run_above, was_given
from tracelet.spoolfile import SpoolDirectory, SpoolInfo

if TYPE_CHECKING:
    from tracelet.core.recorder import Recorder

__all__ = ["TAG", "Restarts", "begin", "has_begun", "is_restarted", "leave_reason", "reason_of", "restarts", "say_end"]

TAG: Final = "tracelet.attempt"
_ALONE: Final = "; it was not started again"


@dataclass(frozen=True, slots=True)
class Restarts:
    """That this process's launcher starts it again.

    Attributes:
        left: how often, when it fails.
        boot, pid, started: which process the launcher is; see `Launcher`.
        namespace: of process numbers, in which `pid` is one; empty where nobody says.
    """

    left: int
    boot: str
    pid: int
    started: str
    namespace: str

    def said(self) -> dict[str, Any]:
        """As `spool.json` has it."""
        return asdict(self)


def restarts() -> Restarts | None:
    """Who starts this process again; None for nobody who is known, as for a child of a process that is started again."""
    done, most = (number(name) for name in ELASTIC)
    if done is None or most is None or not was_given(os.getpid(), ELASTIC[0]):
        return None
    launcher = launcher_of(ELASTIC[0])
    if launcher is None or not is_python(launcher.pid):
        return None  # a child of such a process, or one whose launcher is gone already
    return Restarts(max(most - done, 0), *launcher, _namespace())


def is_restarted() -> bool:
    """Whether its launcher has started this process in place of one that is gone."""
    return said() > 1 and restarts() is not None


def begin(plan: RunPlan, recorder: Recorder) -> int:
    """Count that a process begins a run, or goes on with it; then record that.

    Returns:
        Which attempt it is: in the process that owns the run as many as were begun in this home, but not fewer than the
        environment says.
    """
    attempt = said() if plan.resumed else 1
    if plan.owner:
        try:
            attempt = _count(plan, attempt)
        except OSError:
            attempt = max(attempt, 2) if plan.resumed else 1
    if plan.owner and plan.resumed:
        recorder.resumed()
    if plan.resumed and not plan.rank_label:
        recorder.tags({TAG: str(attempt)})
    return attempt


def has_begun(home: Path, run_id: str) -> bool:
    """Whether a process that owned a run has begun it in this home; those that only wrote to it may have come first."""
    return _count_file(home, run_id).exists()


def say_end(
    plan: RunPlan, recorder: Recorder, again: Restarts | None, attempt: int, status: RunStatus, reason: str
) -> bool:
    """Record how a run ends; or, where its launcher begins the next attempt after this one, leave that until it has not.

    Args:
        plan: the run's.
        recorder: of this process.
        again: who starts it again.
        attempt: which one this is.
        status: how it ended.
        reason: why.

    Returns:
        Whether it is left.
    """
    if again is not None and again.left and plan.carried and status in (RunStatus.FAILED, RunStatus.KILLED):
        try:
            _leave_end(plan, again, status, reason)
        except OSError:
            pass  # then it is said at once
        else:
            recorder.end(RunStatus.RUNNING, f"attempt {attempt} {status.value} ({reason}); a restart is pending")
            return True
    recorder.end(status, reason)
    return False


def leave_reason(plan: RunPlan, reason: str) -> None:
    """Leave word why a worker failed that does not own its run.

    Its launcher ends the others by a signal, the owner among them. So this is how the run ends, unless that says it, or another
    attempt begins. Under `tracelet run` the launcher itself says it, but sees an exit code alone.
    """
    if not plan.carried or (again := restarts()) is None:
        return
    said = f"rank {number('RANK')}: {reason}"
    with suppress(OSError):
        if run_above():
            _reason_file(plan, os.getpid()).write_text(said)
        else:
            _leave_end(plan, again, RunStatus.FAILED, said)


def reason_of(plan: RunPlan, pid: int) -> str:
    """Why a worker failed; empty where it left no word."""
    try:
        return _reason_file(plan, pid).read_text()
    except (OSError, ValueError):
        return ""


def _reason_file(plan: RunPlan, pid: int) -> Path:
    return plan.home / "runs" / plan.run_id / f"failure-{pid}"


def _count(plan: RunPlan, least: int) -> int:
    file = _count_file(plan.home, plan.run_id)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        known = os.fstat(descriptor).st_size
        attempt = max(known + 1, least, 2 if plan.resumed else 1)
        os.write(descriptor, b"." * (attempt - known))
        return attempt
    finally:
        os.close(descriptor)


def _count_file(home: Path, run_id: str) -> Path:
    return home / "runs" / run_id / "attempts"  # a byte for each


def _leave_end(plan: RunPlan, again: Restarts, status: RunStatus, reason: str) -> None:
    writer = {
        "writer_id": os.urandom(16).hex(),
        "owner": True,
        "claim": True,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "epoch": time.time_ns(),
        "restarts": again.said(),
        "end": {"status": status.value, "reason": f"{reason}{_ALONE if again.left else ''}", "wall_time": time.time()},
    }
    _, lock = SpoolDirectory.create(plan.home, SpoolInfo(plan.run_spec(), writer))
    os.close(lock)


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
