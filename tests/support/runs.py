"""Runs that record into their spool and have no sender, as those of a forked child: nothing else is started."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracelet import frameworks
from tracelet.core import active
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import RunStatus
from tracelet.core.options import Options

__all__ = ["running", "start", "stop"]


def start(home: Path, *, run_id: str | None = None, **options: Any) -> Experiment:
    """Begin a run in this context and intercept, as `start_logging` does."""
    given = Options().override(**options)
    plan = RunPlan(
        run_id=run_id or uuid.uuid4().hex,
        name="test",
        project=given.project,
        backends=(),
        home=home,
        prefix=given.writer_prefix,
        spool_cap=given.spool_cap_bytes,
    )
    run = Experiment(plan)
    run._forked = True
    run.begin()
    active.begin(run)
    frameworks.install_all(run, given)
    return run


def stop(run: Experiment) -> None:
    """End it; the last one takes the patches off."""
    if run.active:
        run.stop(RunStatus.FINISHED, "", 0.0)
    active.end(run)
    if not active.running():
        frameworks.uninstall_all()


@contextmanager
def running(home: Path, *, run_id: str | None = None, **options: Any) -> Iterator[Experiment]:
    """A run for a block."""
    run = start(home, run_id=run_id, **options)
    try:
        yield run
    finally:
        stop(run)
