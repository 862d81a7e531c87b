"""A worker of Ray Tune's writes to its trial's run, as a process writes that `tracelet run` has started.

The worker is told of it with its trainable, whatever started its process: a cluster that was there before knows nothing of the
driver's environment. One worker may have several trials, one after the other.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from typing import Final

from tracelet import interface, lifetime
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.guard import Guard
from tracelet.nested.ray_carried import run_id_of

__all__ = ["join", "leave"]

_PATIENCE: Final = (
    1.0  # seconds until what is recorded is durable: what is not is kept, and a collector of this node takes it
)
_JOINING: Final = Guard("joining the trial's run")
_LEAVING: Final = Guard("leaving the trial's run")
_joined = ""


def join(outer: str, trial_id: str, name: str, home: str, options: bytes) -> None:
    """Have what this process logs recorded in a trial's run; when it is already, do nothing.

    Args:
        outer: id of the run around the trial's.
        trial_id: Ray's.
        name: the trial's.
        home: tracelet's home, the driver's.
        options: the driver's settings, pickled.
    """
    global _joined
    run_id = run_id_of(outer, trial_id)
    if run_id == _joined:
        return
    leave()
    with _JOINING:
        _joined = run_id
        os.environ.update(TRACELET_RUN_ID=run_id, TRACELET_RUN_OWNER="0", TRACELET_RUN_HOME=home)
        os.environ.pop("TRACELET_RUN_JOB", None)  # the driver says which run it is, not the batch job
        interface.begin_under_launcher(replace(pickle.loads(options), run_name=name))


def leave() -> None:
    """The trial is over here, or this process's run was another one."""
    global _joined
    _joined = ""
    with _LEAVING:
        for run in active.running():
            lifetime.hand_over(run, (RunStatus.FINISHED, ""), _PATIENCE)
            lifetime.deactivate(run)
