"""The last words of a run under `tracelet run`, on stderr: where the numbers are, and what stays behind."""

from __future__ import annotations

import atexit
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Final

from tracelet.core import active
from tracelet.core.attempts import reason_of
from tracelet.core.experiment import BackendTarget, Experiment
from tracelet.core.links import Link
from tracelet.core.processes import given
from tracelet.errors import CollectorError
from tracelet.guard import guard, say
from tracelet.launch import claim
from tracelet.transport import local

__all__ = ["begin", "begin_if_others_recorded", "lines", "worker_reason"]

_PATIENCE: Final = 0.5  # for trackers to have said where the run is
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what is its own name in W&B


def begin() -> None:
    """Begin, in the process that `tracelet run` became or stays, and have the last words said when it ends."""
    from tracelet import interface

    atexit.register(_say)  # before the run: called after it was stopped
    interface.begin_under_launcher()
    if (run := _own_run()) is not None:
        claim.stake(run)


def lines(run: Experiment) -> list[str]:
    """What to say of a run that is over."""
    said = []
    links = run.links(wait=_PATIENCE)
    for backend in run.plan.backends:
        said.append(f"run {run.name} ({run.id}) goes to {backend.kind}: {backend.target}")
        if how := _how_to_open(backend, run.id, links.get(backend.kind)):
            said.append(f"  open it:  {how}")
    if (collector := local.find(run.plan.home)) is not None:
        said.append(
            f"  a collector (pid {collector.pid}) stays behind and delivers; see `tracelet status`, end it by `tracelet stop`"
        )
    return said


def begin_if_others_recorded(*, ask: bool = True) -> bool:
    """Begin the run in the process that owns it, when only its children recorded: so that it says how the run ended.

    Args:
        ask: ask the collector too, when no trace of the run is in the home; it takes a moment.

    Returns:
        Whether that is settled: the run has begun, or this process owns none.
    """
    run = _own_run()
    if run is None or run.begun:
        return True
    if not _left_traces(run.plan.home, run.id) and not (ask and _in_log(run.plan.home, run.id)):
        return False
    run.begin()
    return True


def worker_reason(error: BaseException | None) -> str:
    """Why torchrun failed: what ended the worker that failed first, of the last attempt; empty for any other exception."""
    if type(error).__name__ != "ChildFailedError" or (run := _own_run()) is None:
        return ""
    from tracelet.launch.forward import describe

    rank, failure = error.get_first_failure()  # type: ignore[union-attr]
    return reason_of(run.plan, failure.pid) or f"rank {rank}: {describe(failure.exitcode)}"


def _own_run() -> Experiment | None:
    run_id = given("TRACELET_RUN_ID")
    return next((run for run in active.running() if run.id == run_id and run.is_owner), None)


def _left_traces(home: Path, run_id: str) -> bool:
    if (home / "runs" / run_id).exists():
        return True
    with suppress(FileNotFoundError):
        return any(not claim.is_claim(folder) for folder in (home / "spool" / run_id).iterdir())
    return False


def _in_log(home: Path, run_id: str) -> bool:
    collector = local.find(home)
    if collector is None:
        return False
    from tracelet.transport.wait import status

    try:
        return bool(status(collector.address, run_id).runs)
    except CollectorError:
        return False


def _how_to_open(backend: BackendTarget, run_id: str, link: Link | None) -> str:
    """The page or the command, as the tracker said it; else what can be said before it has the run."""
    if link is not None:
        return link.url or link.command or ""
    if backend.kind == "wandb" and backend.target.startswith("offline:"):
        folder = shlex.quote(backend.target.removeprefix("offline:"))
        return f"wandb sync {folder}/wandb/offline-run-*-{run_id}" if _PLAIN.fullmatch(run_id) else ""
    if backend.kind in ("mlflow", "tensorboard"):
        return Link.read(backend.kind, backend.target).command or ""
    return ""


def _say() -> None:
    from tracelet.interface import last_ending

    with guard("saying where the numbers are"):
        ending = last_ending()
        if ending is not None and ending.run.begun and ending.run.is_owner:
            for line in lines(ending.run):
                say(line)
