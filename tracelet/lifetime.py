"""The runs of this process, from when they are active to their end: asked for, at the end of `with`, or when it exits."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tracelet import exits
from tracelet.core import active, nesting
from tracelet.core.experiment import Experiment, StopReport
from tracelet.core.metrics import RunStatus
from tracelet.core.outlive import why_none
from tracelet.core.place import know_rank
from tracelet.core.processes import grpc_is_lost, leave_to_children
from tracelet.core.ranks import rank
from tracelet.errors import CollectorError
from tracelet.guard import Guard, say, swallow
from tracelet.transport import local

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = [
    "Ending",
    "activate",
    "befores",
    "deactivate",
    "give_up",
    "hand_over",
    "last_ending",
    "make_way",
    "settle_one",
    "stop",
    "wait_until_delivered",
]

_SAY_WHAT_IS_MISSING_AFTER: Final = 10.0
_SAY_WHY_IT_WAITS_AFTER: Final = 2.0
_AT_EXIT: Final = Guard("stopping at exit")  # the exit code is the script's


@dataclass(frozen=True, slots=True)
class Ending:
    """How the last run of this process ended, for whoever tells the user."""

    run: Experiment
    status: RunStatus
    report: StopReport


_last: Ending | None = None
_ended: list[Experiment] = []  # runs that this process began and stopped: `tracelet run --wait` waits for them
_unsettled: list[Experiment] = []  # runs that another one followed: nobody has waited for their delivery
_at_exit_of = 0  # the process that stops its runs when it exits
# Around what concerns all runs: the patches, which go on with the first and off with the last. A signal handler may come in.
_changing = threading.RLock()


def activate(run: Experiment, options: Options, outer: Experiment | None = None, *, below: bool = False) -> None:
    """Make a run the context's, intercept for it, and have it stopped when the process exits.

    Args:
        run: the run.
        options: what it was started with.
        outer: the run that it is within.
        below: it is within one of a process above.
    """
    from tracelet import frameworks, provenance

    run.on_leave = _leave
    if not run.is_owner:
        run.occasions.when_begun(partial(know_rank, run))
    with _changing:
        active.begin(run, outer, options)
        exits.install()
        frameworks.install_all(run, options)
        _leave_to_children()
    if outer is not None and not run.begun:
        run.occasions.when_begun(_leave_to_children)
    provenance.begin(run, options, below=below)
    _stop_at_exit()


def stop(run: Experiment, status: RunStatus, reason: str, waited: float = 0.0) -> None:
    """Stop a run, tell the user what is not durable, and take the patches off when it was the last one.

    Runs that are nested in it end as it does, before it.

    Args:
        run: the run.
        status: how it ended.
        reason: why.
        waited: seconds of its timeout that are over.
    """
    global _last
    began = time.monotonic()
    for inner in nesting.within(run, active.running()):
        stop(inner, status, reason, waited + time.monotonic() - began)
    waited += time.monotonic() - began
    report = run.stop(status, reason, max(run.plan.stop_timeout - waited, 0.0))
    _remember(run)
    _last = Ending(run, status, report)
    if report.lost:
        say(
            f"{report.lost} records of run {run.name} are lost: they were in memory, and {report.kept_in} cannot be written"
        )
    elif not report.durable and report.kept_in is not None and run.is_owner:
        say(f"no collector took everything in time: the rest is kept in {report.kept_in}; `tracelet wait` delivers it")
    deactivate(run)


def befores(*others: Experiment | None) -> list[Experiment]:
    """The runs that one which starts here takes the place of: the context's, and those that were there for want of it.

    Those that are nested in one come before it.
    """
    running = active.running()
    found: dict[Experiment, None] = {}
    for before in (active.superseded(), *others):
        if before is not None and before in running:
            found.update(dict.fromkeys([*nesting.within(before, running), before]))
    return list(found)


def make_way(runs: Iterable[Experiment], run_id: str | None) -> None:
    """Stop runs for one with an id."""
    for before in runs:
        if before.id == run_id:
            before.leave()
        hand_over(before)


def hand_over(run: Experiment, outcome: tuple[RunStatus, str] | None = None, deadline: float = 0.0) -> None:
    """Stop a run that another one follows, without waiting for long: the collector adopts what is not sent yet.

    Runs that are nested in it end as it does, before it.

    Args:
        run: the run.
        outcome: how it ended; by default as the process stands.
        deadline: seconds to wait.
    """
    outcome = outcome or exits.outcome(run.began_during)
    for one in (*nesting.within(run, active.running()), run):
        _hand_over(one, outcome, deadline)


def _hand_over(run: Experiment, outcome: tuple[RunStatus, str], deadline: float) -> None:
    run.stop(*outcome, deadline)
    _remember(run)
    if _why_wait(run):
        _unsettled.append(run)
    with _changing:
        active.end(run)
        _leave_to_children()


def give_up(run: Experiment, error: BaseException) -> None:
    """A run whose start was interrupted: the user will never have it."""
    run.stop(*exits.of_exception(error), deadline=0.0)
    deactivate(run)


def deactivate(run: Experiment) -> None:
    """Have a run that was stopped be active no more, and take the patches off when it was the last one."""
    with _changing:
        active.end(run)
        _leave_to_children()
        if not active.running():
            from tracelet import frameworks

            frameworks.uninstall_all()
            exits.uninstall()


def _leave_to_children() -> None:
    """Have what this process starts find its run; of several at once that are not nested, nobody could say which."""
    runs = (run for run in active.running() if run.active and run.plan.carried)
    leave_to_children(nesting.shared(run for run in runs if _is_there(run)))


def _is_there(run: Experiment) -> bool:
    """Whether a child may join a run: not one apart, nor a nested one that may end without ever having a stream."""
    return not active.is_apart(run) and (run.begun or nesting.outer_of(run) is None)


def _remember(run: Experiment) -> None:
    if run.is_owner and run not in _ended and os.environ.get("TRACELET_WAIT") == "1":
        _ended.append(run)


def settle_one(run: Experiment) -> None:
    """Wait until a run that was stopped is delivered, as `settle` does; for a nested one the script waits at its end."""
    if nesting.outer_of(run) is None:
        settle([run])
    elif _why_wait(run):
        _unsettled.append(run)


def settle(runs: Iterable[Experiment]) -> None:
    """Wait until runs that were stopped are delivered, where no collector can do that after this process, or as set.

    At most two minutes for all of them; then it says what is missing and where it is kept.

    Args:
        runs: the runs. Those of others, of which this process is a writer, are theirs to wait for; but other nodes'
            collectors end with the processes there.
    """
    waited: dict[str, None] = {}
    until = None
    for run in runs:
        why = _why_wait(run)
        if not why or run.id in waited or grpc_is_lost():
            continue
        from tracelet.transport.wait import DEADLINE

        until = until or time.monotonic() + DEADLINE
        waited[run.id] = None
        wait_until_delivered(run, max(until - time.monotonic(), 0.0), why)


def _why_wait(run: Experiment) -> str:
    """Why stopping a run waits for its delivery, in words; empty when it does not."""
    if not run.begun or not run.plan.carried or run.plan.stop_wait == "durable" or run.goes_on:
        return ""
    if not run.is_owner and not ((me := rank()) is not None and me.rank > 0 and me.local_rank == 0):
        return ""
    if _last is not None and _last.run is run and not _last.report.durable and local.find(run.plan.home) is None:
        return ""  # nobody delivers, and what is kept was said
    if run.plan.stop_wait == "delivered":
        return "TRACELET_STOP_WAIT=delivered says so"
    where = why_none()
    return f"no collector outlives {where} (TRACELET_STOP_WAIT=durable ends without)" if where else ""


def wait_until_delivered(run: Experiment, timeout: float | None, why: str = "") -> None:
    """Wait for the trackers, and tell the user what is missing when the time is over.

    Args:
        run: a run that was stopped.
        timeout: seconds; None waits as long as it takes.
        why: why it waits, where the user did not ask for it; said when it takes longer.
    """
    if not run.plan.carried or (not run.begun and not run.is_owner):
        return  # it recorded nothing, as ranks above 0 do
    if grpc_is_lost():
        say(f"run {run.name}: this process, forked or about to exit, cannot wait for delivery; the collector delivers")
        return
    from tracelet.transport.wait import missing, wait_delivered

    began = time.monotonic()

    def tell(reply: Any) -> None:
        waited = time.monotonic() - began
        if why and waited > _SAY_WHY_IT_WAITS_AFTER:
            say(f"run {run.name}: waiting until everything is delivered, {timeout or 0:.0f} s at most: {why}")
        if why and waited > _SAY_WHAT_IS_MISSING_AFTER and not os.isatty(2):
            for state in reply.runs:
                for backend in state.backends:
                    rest = f"{backend.lag_points:,} of {state.durable:,} points to go"
                    say(f"run {state.name}: {backend.kind} has {rest}", key=f"{run.id} {waited // 10} {backend.kind}")
        elif waited > _SAY_WHAT_IS_MISSING_AFTER and (lacking := missing(reply)):
            say(f"waiting until everything is delivered: {lacking}", key=f"waiting for {run.id}")

    try:
        lacking = wait_delivered(run.plan.home, run.id, timeout, tell, run.plan.starting)
    except CollectorError as error:
        lacking = f"{error}; what is not delivered is kept in {run.plan.home}"
    if lacking:
        say(f"run {run.name}: {lacking}")


def last_ending() -> Ending | None:
    """How the last run that this process stopped ended."""
    return _last


def _leave(run: Experiment, error: BaseException | None) -> None:
    """The end of `with start_logging(...)`: an exception that leaves the block fails the run."""
    if not run.active:
        if nesting.outer_of(run) is not None:
            deactivate(run)  # a rank's that records nothing: the outer one is the active one again
        return
    status, reason = (RunStatus.FINISHED, "") if error is None else exits.of_exception(error)
    try:
        stop(run, status, reason)
        settle_one(run)
    except Exception as trouble:  # the user's exception, not ours, is what leaves the block
        swallow("stopping", trouble)


def _stop_at_exit() -> None:
    global _at_exit_of
    if _at_exit_of == os.getpid():
        return
    _at_exit_of = os.getpid()
    atexit.register(_stop_all)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _stop_all_of_child, exitpriority=0)


def _stop_all(outcome: tuple[RunStatus, str] | None = None) -> None:
    """At exit. Threads that are not daemons have ended by now. However many runs there are, they are waited for at once."""
    ends = [(run, *(outcome or exits.outcome(run.began_during))) for run in reversed(active.running())]
    for run, status, reason in ends:
        with _AT_EXIT:
            run.end(status, reason)
    began = time.monotonic()
    for run, status, reason in ends:
        with _AT_EXIT:
            stop(run, status, reason, waited=time.monotonic() - began)
    try:
        for run in _ended:
            wait_until_delivered(run, None)
        settle([*_unsettled, *(run for run, _, _ in ends)])
    except KeyboardInterrupt:
        say("interrupted: what is not delivered yet is kept, and a collector goes on with it (see `tracelet status`)")
    except Exception as error:  # the exit code is the script's
        swallow("waiting for delivery", error)
    exits.keep_interrupt()


def _stop_all_of_child() -> None:
    """At the end of a process that multiprocessing started: it skips `atexit`, and ends its threads after this."""
    outcome = exits.outcome()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if not others:
        _stop_all(outcome)
        return

    def stop_after_them() -> None:
        for thread in others:
            thread.join()
        _stop_all(outcome)

    threading.Thread(target=stop_after_them, name="tracelet-end").start()


def _fresh_lock() -> None:
    global _changing
    _changing = threading.RLock()


os.register_at_fork(after_in_child=_fresh_lock)  # a thread that is not there any more may hold the parent's
