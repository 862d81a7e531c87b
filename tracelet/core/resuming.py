"""A run that has recorded nothing yet, and turns out to be one that was begun before: a checkpoint says so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tracelet.core import active, identity
from tracelet.core.processes import renamed
from tracelet.guard import say

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["KEY", "go_on_with"]

KEY: Final = "tracelet_run"  # of a checkpoint: the id of the run that wrote it


def go_on_with(run: Experiment, run_id: str) -> bool:
    """Have a run be another one, that of an id; where it cannot be, say so.

    Args:
        run: one that this process began, or would begin by its first record.
        run_id: of a run that was begun before, here or elsewhere.

    Returns:
        Whether it is that one now.

    Raises:
        ConfigurationError: what is known of that run cannot be read.
    """
    before = run.id
    if run_id == before:
        return True
    if run.begun or not run.is_owner:
        say(
            f"the checkpoint is of run {run_id}; run {run.name} ({before}) has begun already, and stays: "
            f"start_logging(run_id={run_id!r}, resume='auto') would have gone on with that"
        )
        return False
    plan = replace(run.plan, run_id=run_id, resumed=True)
    known = identity.find(plan.home, run_id, "auto")
    run.revise(plan if known is None else identity.resumed(plan, known, frozenset()))
    active.renamed(run, before)
    renamed(before, run_id)
    return True
