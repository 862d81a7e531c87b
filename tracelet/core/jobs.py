"""Jobs that somebody starts again: which attempt this process belongs to, and the run id that all attempts come to.

torchrun counts the restarts of its workers. Some schedulers start a job that was preempted, or that failed, again under the
same id, and count that.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tracelet.core.processes import birth

__all__ = ["ELASTIC", "number", "run_id_of_job", "said"]

# torchrun's: restarts so far, and the most there will be.
ELASTIC: Final = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")


@dataclass(frozen=True, slots=True)
class _Scheduler:
    """What a scheduler says of a job that it starts again under the same id.

    Attributes:
        job: variables that make its id together.
        attempt: the variable that counts the attempts.
        first: what that is in the first one; also where it is not set.
        within: variables that tell parts of the job from one another.
    """

    job: tuple[str, ...]
    attempt: str
    first: int = 0
    within: tuple[str, ...] = ()


_SCHEDULERS: Final = (
    _Scheduler(("SLURM_CLUSTER_NAME", "SLURM_JOB_ID"), "SLURM_RESTART_COUNT", within=("SLURM_STEP_ID", "SLURM_PROCID")),
    _Scheduler(("AWS_BATCH_JOB_ID",), "AWS_BATCH_JOB_ATTEMPT", first=1, within=("AWS_BATCH_JOB_NODE_INDEX",)),
    _Scheduler(("CLOUD_RUN_EXECUTION", "CLOUD_RUN_TASK_INDEX"), "CLOUD_RUN_TASK_ATTEMPT"),
)


def said() -> int:
    """Which attempt this is, as far as the environment says: 1 is the first."""
    scheduler = _scheduler()
    again = 0 if scheduler is None else max((number(scheduler.attempt) or scheduler.first) - scheduler.first, 0)
    return 1 + again + (number(ELASTIC[0]) or 0)


def run_id_of_job(home: Path, arguments: Sequence[str] | None = None) -> str:
    """The id of the first run of a script in a job that its scheduler may start again; the next attempt comes to it too.

    Only for the first process of an attempt that runs this script with these arguments: a second one is another run, and
    nobody could say which of them the next attempt goes on with.

    Args:
        home: tracelet's home, where the first one leaves its claim.
        arguments: of the script, which comes first; by default those of this process.

    Returns:
        Empty: this is no such job, or not the first process.
    """
    scheduler = _scheduler()
    if scheduler is None:
        return ""
    words = [*(os.environ.get(name, "") for name in (*scheduler.job, *scheduler.within)), *(arguments or sys.argv)]
    run_id = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    claim = home / "jobs" / f"{run_id}.{said()}"
    me = " ".join(str(part) for part in birth())
    try:
        claim.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with claim.open("x") as file:
                file.write(me)
        except FileExistsError:
            return run_id if claim.read_text() == me else ""
        return run_id
    except (OSError, ValueError):
        return ""  # said when the run begins


def number(name: str) -> int | None:
    """What a variable counts; None when it is not set, or counts nothing."""
    word = os.environ.get(name, "")
    return int(word) if word.isdecimal() and len(word) < 10 else None


def _scheduler() -> _Scheduler | None:
    return next((each for each in _SCHEDULERS if os.environ.get(each.job[-1])), None)
