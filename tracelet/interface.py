"""start_logging, stop_logging, get_active_experiment: a run's life in the training process."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracelet import exits
from tracelet.core import active, targets
from tracelet.core.experiment import BackendTarget, Experiment, RunPlan, StopReport, new_run_id
from tracelet.core.guard import say, swallow
from tracelet.core.home import usable_home
from tracelet.core.metrics import RunStatus
from tracelet.core.options import Options
from tracelet.errors import ConfigurationError

if TYPE_CHECKING:
    from tracelet.settings import TraceletSettings

__all__ = ["Ending", "begin_under_launcher", "get_active_experiment", "last_ending", "start_logging", "stop_logging"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the last run of this process ended, for whoever tells the user."""

    run: Experiment
    status: RunStatus
    report: StopReport


_last: Ending | None = None
_launched: Experiment | None = None
_at_exit = False


def start_logging(
    exp_name: str | None = None,
    project: str | None = None,
    backend: str | Sequence[str] | None = None,
    api_key: str | Mapping[str, str] | None = None,
    backend_url: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    settings: TraceletSettings | None = None,
) -> Experiment:
    """Start a run: from now on, what the script logs by a known framework is recorded, and delivered to the backends.

    Starting again in the same context stops the run before. Under `tracelet run` the launcher's run is adopted: explicit
    arguments fill what its command line left open, as long as nothing is recorded.

    Args:
        exp_name: the run's name; by default the script's name and the time. Not unique.
        project: MLflow experiment, W&B project, ClearML project; by default "default".
        backend: "mlflow" (the default), or several as a list or "a,b".
        api_key: the tracker's key; a mapping when there are several backends.
        backend_url: the tracker's address; by default what the tracker's own SDK would use.
        config: parameters of the run, as by `Experiment.log_params`.
        settings: all settings at once; the arguments above go before them.

    Returns:
        The run. It is a context manager too: leaving the block stops it.

    Raises:
        BackendNotInstalledError: a backend's package is missing; the message has the line that installs it.
        UnknownBackendError: a backend that tracelet does not have.
        ConfigurationError: an argument or a setting makes no sense.
        HomeError: TRACELET_HOME cannot be written to.
    """
    options = settings.options() if settings is not None else Options.load()
    options = options.override(run_name=exp_name, project=project, backend=backend)
    if options.disabled:
        return _silent(options)
    if _launched is not None and _launched.active:
        return _adopt_launched(
            _launched, options, explicit=(exp_name, project, backend, backend_url, api_key), config=config
        )
    home = usable_home(options.home)
    backends = targets.resolve(options.backend, home, backend_url, api_key)
    if (before := active.in_context()) is not None:
        _hand_over(before)
    run = Experiment(_plan(options, home, backends, new_run_id(), owner=True))
    run.begin()
    _activate(run, options)
    if config:
        run.log_params(config)
    return run


def stop_logging(wait: str | float = "durable") -> None:
    """Stop the active run: record its end, and return when everything is durable. Calling it again does nothing.

    Args:
        wait: "durable" (at most 5 s; what is not durable by then is kept in the spool, and one line says so), "delivered"
            (until the trackers have it all), or seconds to wait for that.

    Raises:
        ConfigurationError: `wait` is none of these.
    """
    if isinstance(wait, str) and wait not in ("durable", "delivered"):
        raise ConfigurationError(f"wait={wait!r}: choose 'durable', 'delivered' or a number of seconds")
    run = active.current()
    if run is None:
        return
    status, reason = exits.outcome()
    try:
        _stop(run, status, reason)
        if wait != "durable":
            _wait_delivered(run, None if wait == "delivered" else float(wait))
    except Exception as error:  # stopping must not fail a training that went well
        swallow("stopping", error)


def get_active_experiment() -> Experiment | None:
    """The run that a metric logged here and now would belong to, or None."""
    return active.current()


def last_ending() -> Ending | None:
    """How the last run that this process stopped ended."""
    return _last


def begin_under_launcher() -> None:
    """In a process that `tracelet run` started, or a child of one: intercept; the run begins at its first record."""
    global _launched
    run_id = os.environ.get("TRACELET_RUN_ID")
    if _launched is not None or not run_id:
        return
    options = Options.load()
    if options.disabled:
        return
    home = usable_home(options.home)
    owner = os.environ.get("TRACELET_RUN_OWNER") == str(os.getpid())
    backends = targets.resolve(options.backend, home)
    _launched = Experiment(_plan(options, home, backends, run_id, owner=owner))
    _activate(_launched, options)


def _leave(run: Experiment, error: BaseException | None) -> None:
    """The end of `with start_logging(...)`: an exception that leaves the block fails the run."""
    if not run.active:
        return
    status, reason = exits.outcome()
    if error is not None:
        status, reason = exits.of_exception(error)
    try:
        _stop(run, status, reason)
    except Exception as trouble:  # the user's exception, not ours, is what leaves the block
        swallow("stopping", trouble)


def _plan(options: Options, home: Path, backends: tuple[BackendTarget, ...], run_id: str, *, owner: bool) -> RunPlan:
    return RunPlan(
        run_id=run_id,
        name=options.run_name or _default_name(),
        project=options.project,
        backends=backends,
        home=home,
        owner=owner,
        prefix=options.writer_prefix,
        spool_cap=options.spool_cap_bytes,
        flush_interval=options.flush_interval,
        collector_idle=options.collector_idle,
        stop_timeout=options.stop_timeout,
    )


def _default_name() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None) or sys.argv[0] or "python"
    return f"{Path(script).stem or 'python'}-{time.strftime('%Y%m%d-%H%M%S')}"


def _activate(run: Experiment, options: Options) -> None:
    global _at_exit
    from tracelet import frameworks

    run.on_leave = _leave
    active.begin(run)
    exits.install()
    frameworks.install_all(run, options)
    if not _at_exit:
        _at_exit = True
        atexit.register(_stop_all)


def _adopt_launched(
    run: Experiment, options: Options, explicit: tuple[object, ...], config: Mapping[str, Any] | None
) -> Experiment:
    if not run.begun and any(value is not None for value in explicit):
        name, project, backend, url, key = explicit
        plan = run.plan
        if name is not None and not os.environ.get("TRACELET_RUN_NAME_GIVEN"):
            plan = replace(plan, name=str(name))
        if project is not None and "TRACELET_PROJECT" not in os.environ:
            plan = replace(plan, project=str(project))
        if (backend is not None or url is not None or key is not None) and "TRACELET_BACKEND" not in os.environ:
            backends = targets.resolve(options.backend, plan.home, url, key)  # type: ignore[arg-type]
            plan = replace(plan, backends=backends)
        run.revise(plan)
    active.begin(run)
    if config:
        run.log_params(config)
    return run


def _silent(options: Options) -> Experiment:
    plan = _plan(options, Path(os.devnull), (), new_run_id(), owner=True)
    return Experiment(plan, enabled=False)


def _stop(run: Experiment, status: RunStatus, reason: str) -> None:
    global _last
    report = run.stop(status, reason, run.plan.stop_timeout)
    active.end(run)
    _last = Ending(run, status, report)
    if not report.durable and report.kept_in is not None and run.is_owner:
        say(f"no collector took everything in time: the rest is kept in {report.kept_in}; `tracelet wait` delivers it")
    if not active.running():
        from tracelet import frameworks

        frameworks.uninstall_all()
        exits.uninstall()


def _hand_over(run: Experiment) -> None:
    """Stop a run that another one follows, without waiting: the collector adopts what is not sent yet."""
    run.stop(*exits.outcome(), deadline=0.0)
    active.end(run)


def _stop_all() -> None:
    """At exit. A child that multiprocessing forked or spawned skips this: the collector adopts its spool."""
    for run in active.running():
        status, reason = exits.outcome()
        try:
            _stop(run, status, reason)
            if run.is_owner and os.environ.get("TRACELET_WAIT") == "1":
                _wait_delivered(run, None)
        except Exception as error:  # the exit code is the script's
            swallow("stopping at exit", error)
    exits.keep_interrupt()


def _wait_delivered(run: Experiment, timeout: float | None) -> None:
    from tracelet.transport.wait import wait_delivered

    missing = wait_delivered(run.plan.home, run.id, timeout)
    if missing:
        say(f"run {run.name}: {missing}")
