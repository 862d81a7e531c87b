"""start_logging, stop_logging, get_active_experiment: a run's life in the training process."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracelet import exits, lifetime
from tracelet.core import active, targets
from tracelet.core.experiment import Experiment
from tracelet.core.home import usable_home
from tracelet.core.options import Options, PyTorchOptions
from tracelet.core.place import Place, as_owned, is_silent_rank, rank_label, take_place
from tracelet.core.plan import BackendTarget, RunPlan, new_run_id
from tracelet.core.processes import home_above, known, run_is_ours
from tracelet.errors import ConfigurationError
from tracelet.guard import swallow
from tracelet.lifetime import Ending, last_ending

if TYPE_CHECKING:
    from tracelet.settings import TraceletSettings

__all__ = ["Ending", "begin_under_launcher", "get_active_experiment", "last_ending", "start_logging", "stop_logging"]

_LONGEST_NAME: Final = 1000
# Settings that a script may still decide under `tracelet run`, and where they go in a plan.
_OPEN: Final[Mapping[str, str]] = {
    "run_name": "name",
    "project": "project",
    "writer_prefix": "prefix",
    "spool_cap_bytes": "spool_cap",
    "flush_interval": "flush_interval",
    "collector_idle": "collector_idle",
    "stop_timeout": "stop_timeout",
}
_launched: Experiment | None = None
_adopted = False  # by a start_logging; a second one begins a run of its own
_silenced: Experiment | None = None  # the run of a rank that records nothing


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

    The run ends by `stop_logging`, at the end of `with`, or when the interpreter exits: after all threads that are not daemons
    have ended, and before `atexit` functions that were registered earlier.

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
    options = _options(settings).override(run_name=exp_name, project=project, backend=backend)
    _check(options, config)
    if options.disabled:
        return _silent(options)
    place = take_place(options)
    if place.silent:
        return _silent_rank(options, place)
    if _launched is None and (place.joins or run_is_ours()):
        begin_under_launcher()  # a process below it that has imported nothing which is intercepted
    fits = _launched is not None and (_launched.id == place.run_id if place.joins else _launched.is_owner)
    if _launched is not None and _launched.active and not _adopted and fits:
        arguments = {
            "run_name": exp_name,
            "project": project,
            "backend": backend,
            "api_key": api_key,
            "url": backend_url,
        }
        given = {name for name, value in arguments.items() if value is not None}
        if settings is not None:
            given |= settings.model_fields_set
        return _adopt_launched(_launched, options, given, backend_url, api_key, config)
    if place.joins:
        return _join(options, place, backend_url, api_key, config)
    home = usable_home(options.home)
    backends = targets.resolve(options.backend, home, backend_url, api_key)
    if (before := active.superseded()) is not None:
        lifetime.hand_over(before)
    plan = _plan(options, home, backends, place.run_id or new_run_id(), owner=place.owner)
    run = Experiment(replace(plan, parent=place.parent, rank_label=place.rank_label))
    run.began_during = exits.under_way()
    try:
        run.begin()
        lifetime.activate(run, options)
        if config:
            run.log_params(config)
    except BaseException as error:  # of a signal handler of the user's
        lifetime.give_up(run, error)
        raise
    return run


def stop_logging(wait: str | float | None = None) -> None:
    """Stop the active run: record its end, and return when everything is durable. Calling it again does nothing.

    What was logged before is in; what other threads log meanwhile may be. An exception that is being handled, or passes by a
    `finally`, is how the run ended.

    Args:
        wait: "durable" (at most 5 s; what is not durable by then is kept in the spool, and one line says so), "delivered"
            (until the trackers have it all, however long that takes), or seconds after which waiting for that ends. By default
            what the setting `stop_wait` says: durable; where no collector can outlive this process, delivered, for at most
            two minutes.

    Raises:
        ConfigurationError: `wait` is none of these.
    """
    seconds = 0.0 if wait is None else _seconds(wait)
    run = active.current()
    if run is None:
        return
    until = time.monotonic() + seconds
    try:
        lifetime.stop(run, *exits.outcome(run.began_during))
        if wait is None:
            lifetime.settle([run])
        elif wait != "durable":
            lifetime.wait_until_delivered(run, None if math.isinf(seconds) else max(until - time.monotonic(), 0.0))
    except Exception as error:  # stopping must not fail a training that went well
        swallow("stopping", error)


def get_active_experiment() -> Experiment | None:
    """The run that a metric logged here and now would belong to, or None."""
    run = active.current()
    return run if run is not None and (run.active or run is _silenced) else None


def begin_under_launcher() -> None:
    """In a process that `tracelet run` started, or a child of one: intercept; the run begins at its first record."""
    global _launched
    run_id = os.environ.get("TRACELET_RUN_ID")
    if _launched is not None or not run_id:
        return
    options = Options.load()
    if options.disabled or is_silent_rank():
        return
    owner = os.environ.get("TRACELET_RUN_OWNER") == str(os.getpid())
    if owner:
        home = usable_home(options.home)
        plan = _plan(options, home, targets.resolve(options.backend, home), run_id, owner=True)
    else:
        plan = _writers_plan(options, run_id, rank_label(), None, None)
    _launched = Experiment(plan)
    lifetime.activate(_launched, options)


def _options(settings: TraceletSettings | None) -> Options:
    if settings is None:
        return Options.load()
    try:
        return settings.options()
    except AttributeError:
        raise ConfigurationError(f"settings={settings!r} is no TraceletSettings") from None


def _check(options: Options, config: object) -> None:
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(f"config={config!r:.80} makes no sense; give a mapping of parameters")
    for what, name in (("exp_name", options.run_name), ("project", options.project)):
        if name is not None and len(name) > _LONGEST_NAME:
            raise ConfigurationError(f"{what} has {len(name)} characters; {_LONGEST_NAME} are allowed")


def _seconds(wait: Any) -> float:
    """Seconds to wait for delivery; 0 for none, infinity for as long as it takes."""
    if isinstance(wait, str) and wait in ("durable", "delivered"):
        return math.inf if wait == "delivered" else 0.0
    try:
        seconds = math.nan if isinstance(wait, bool | str) else float(wait)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigurationError(f"wait={wait!r}: choose 'durable', 'delivered' or a number of seconds")
    return seconds


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
        stop_wait=options.stop_wait,
    )


def _default_name() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None) or (sys.argv or [""])[0]
    # A file's name may have bytes and characters that no tracker takes.
    stem = "".join(character if character.isprintable() else "_" for character in Path(script).stem)[:200].strip()
    return f"{stem or 'python'}-{time.strftime('%Y%m%d-%H%M%S')}"


def _adopt_launched(
    run: Experiment,
    options: Options,
    given: Set[str],
    backend_url: str | None,
    api_key: str | Mapping[str, str] | None,
    config: Mapping[str, Any] | None,
) -> Experiment:
    global _adopted
    _adopted = True
    if not run.begun:
        plan = run.plan
        asked = _plan(options, plan.home, plan.backends, plan.run_id, owner=plan.owner)
        changes = {field: getattr(asked, field) for setting, field in _OPEN.items() if setting in given}
        if os.environ.get("TRACELET_RUN_NAME_GIVEN"):
            changes.pop("name", None)
        if "TRACELET_PROJECT" in os.environ:
            changes.pop("project", None)
        named = "TRACELET_BACKEND" in os.environ  # which ones; their addresses and keys were left open
        if given & ({"api_key", "url"} if named else {"backend", "api_key", "url"}):
            kinds = tuple(backend.kind for backend in plan.backends) if named else options.backend
            changes["backends"] = targets.resolve(kinds, plan.home, backend_url, api_key)
        run.revise(replace(plan, **changes))
        if "pytorch" in given:
            from tracelet import frameworks

            frameworks.install_all(run, options)
    active.begin(run)
    if config:
        run.log_params(config)
    return run


def _join(
    options: Options,
    place: Place,
    backend_url: str | None,
    api_key: str | Mapping[str, str] | None,
    config: Mapping[str, Any] | None,
) -> Experiment:
    """Become a writer of the run of a process above. It has its name and its backends already."""
    run = known(place.run_id)
    if run is None or not run.active:
        run = Experiment(_writers_plan(options, place.run_id, place.rank_label, backend_url, api_key))
    lifetime.activate(run, options)
    if config:
        run.log_params(config)
    return run


def _writers_plan(
    options: Options,
    run_id: str,
    rank_label: str,
    backend_url: str | None,
    api_key: str | Mapping[str, str] | None,
) -> RunPlan:
    home = usable_home(home_above() or options.home)
    plan = replace(_plan(options, home, (), run_id, owner=False), rank_label=rank_label)
    return as_owned(plan) or replace(plan, backends=targets.resolve(options.backend, home, backend_url, api_key))


def _silent_rank(options: Options, place: Place) -> Experiment:
    """The run of a rank that records nothing. Until it is stopped it is the active one: the script runs on all ranks."""
    global _silenced
    for before in (active.superseded(), _launched):
        if before is not None and before in active.running():
            lifetime.hand_over(before)
    plan = _plan(options, Path(os.devnull), (), place.run_id or new_run_id(), owner=False)
    _silenced = Experiment(plan, enabled=False)
    lifetime.activate(_silenced, replace(options, pytorch=PyTorchOptions(patch_tensorboard=False)))
    return _silenced


def _silent(options: Options) -> Experiment:
    from tracelet import frameworks

    run = Experiment(_plan(options, Path(os.devnull), (), new_run_id(), owner=True), enabled=False)
    frameworks.install_all(run, replace(options, pytorch=PyTorchOptions(patch_tensorboard=False)))
    return run
