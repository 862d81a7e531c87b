"""The claim of `tracelet run` on the run that it gave out: a spool that holds nothing, locked for as long as its process lives.

A run begins at its first record, which may be another process's: a rank's under torchrun, a script's under a shell. This
process, which owns the run, begins it at the end, to say how it ended. Should it be killed before, the collector finds the
claim unlocked, and ends the run, once its other writers are gone, if there is one.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from tracelet.core.experiment import Experiment
from tracelet.guard import Guard
from tracelet.spoolfile import SpoolDirectory, SpoolInfo

__all__ = ["is_claim", "stake"]

_RELEASING = Guard("letting go of the run")


def stake(run: Experiment) -> None:
    """Lay claim to a run until this process ends."""
    writer = {
        "writer_id": os.urandom(16).hex(),
        "owner": True,
        "claim": True,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "epoch": time.time_ns(),
    }
    spool, lock = SpoolDirectory.create(run.plan.home, SpoolInfo(run.plan.run_spec(), writer))
    atexit.register(_release, spool, lock, os.getpid())


def is_claim(folder: Path) -> bool:
    """Whether a spool's folder is a claim."""
    try:
        return bool(SpoolDirectory(folder).info().writer.get("claim"))
    except (OSError, ValueError):
        return False


def _release(spool: SpoolDirectory, lock: int, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child that ends as Python programs do
    with _RELEASING, suppress(FileNotFoundError):  # the home is gone
        spool.remove()
    os.close(lock)
