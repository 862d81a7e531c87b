"""start_logging, stop_logging, get_active_experiment: a run's life in the training process."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tracelet import checks, exits, lifetime, plans
from tracelet.core import active, attempts, captive, identity, jobs, nesting, targets
from tracelet.core.experiment import Experiment
from tracelet.core.home import usable_home
from tracelet.core.identity import Resume
from tracelet.core.options import ENV_FILE, Options, read_environment
from tracelet.core.place import (
    Place,
    as_asked,
    as_nested,
    is_below_a_run,
    is_silent_rank,
    rank_label,
    take_place,
)
from tracelet.core.plan import BackendTarget, new_run_id
from tracelet.core.processes import home_above, known, run_is_ours
from tracelet.errors import ConfigurationError
from tracelet.guard import swallow
from tracelet.lifetime import Ending, last_ending

if TYPE_CHECKING:
    from tracelet.settings import TraceletSettings

__all__ = [
    "Ending",
    "begin_under_launcher",
    "call_is_nested",
    "get_active_experiment",
    "last_ending",
    "start_logging",
    "stop_logging",
]

_launched: Experiment | None = None
_adopted = False  # by a start_logging; a second one begins a run of its own
# Settings that a run which goes on has already, likewise.
_BEGUN_WITH: Final[Mapping[str, str]] = {
    "run_name": "name",
    "project": "project",
    "backend": "backends",
    "url": "backends",
    "parent": "parent",
    "group": "group",
    "notes": "notes",
}
_silenced: weakref.WeakSet[Experiment] = weakref.WeakSet()  # the runs of a rank that records nothing
_disabled: Experiment | None = None  # the run of `mode="disabled"`, until it is stopped


def start_logging(
    exp_name: str | None = None,
    project: str | None = None,
    backend: str | Sequence[str] | None = None,
    api_key: str | Mapping[str, str] | None = None,
    backend_url: str | Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    settings: TraceletSettings | None = None,
    run_id: str | None = None,
    resume: Resume | None = None,
    parent: str | Experiment | None = None,
    group: str | None = None,
    tags: Mapping[str, Any] | Iterable[str] | None = None,
    notes: str | None = None,
    mode: Literal["disabled"] | None = None,
    nested: bool = False,
) -> Experiment:
    """Start a run: from now on, what the script logs by a known framework is recorded, and delivered to the backends.

    Starting again in the same context stops the run before, unless the new one is nested in it. Under `tracelet run` the
    launcher's run is adopted: explicit arguments fill what its command line left open, as long as nothing is recorded.

    The run ends by `stop_logging`, at the end of `with`, or when the interpreter exits: after all threads that are not daemons
    have ended, and before `atexit` functions that were registered earlier.

    Args:
        exp_name: the run's name; by default the script's name and the time. Not unique.
        project: MLflow experiment, W&B project, ClearML project; by default "default".
        backend: "mlflow" (the default), or several as a list or "a,b".
        api_key: the tracker's key; a mapping when there are several backends.
        backend_url: the tracker's address, a mapping when there are several backends; by default what the tracker's own SDK
            would use.
        config: parameters of the run, as by `Experiment.log_params`.
        settings: all settings at once; the other arguments go before them.
        run_id: an id of your own; by default a new one, or that of the job which is started again.
        resume: what `run_id` means. "never": a new run, and an error when there is one already. "auto": the run of this id goes
            on, if there is one. "must": it goes on, and an error when there is none. "checkpoint": as "auto", and checkpoints
            name the run, so that a training which a library resumes from one goes on with it. By default what the setting
            `resume` says: "never". A run that goes on keeps its name,
            project, trackers and labels, is running again until its next end, and gets its points behind those that it has,
            whatever their steps are.
        parent: the run, or the id of the run, that it belongs to.
        group: what the run is compared with.
        tags: tags of the run: a mapping, or words.
        notes: a text about the run, in Markdown.
        mode: "disabled" makes everything a no-op, as `TRACELET_DISABLED=1` does: nothing is recorded, written or started.
        nested: the run is within the active one, where there is one: that goes on, is its `parent`, and gets what is logged
            after this one's end. Settings and trackers that are not given are those of the outer run. A run that ends has
            those end before it that are nested in it.

    Returns:
        The run. It is a context manager too: leaving the block stops it.

    Raises:
        BackendNotInstalledError: a backend's package is missing; the message has the line that installs it.
        UnknownBackendError: a backend that tracelet does not have.
        ConfigurationError: an argument or a setting makes no sense, or there is, or is not, a run of that id.
        HomeError: TRACELET_HOME cannot be written to.
    """
    arguments = {
        "run_name": exp_name,
        "project": project,
        "backend": backend,
        "parent": parent,
        "group": group,
        "tags": tags,
        "notes": notes,
    }
    captor = captive.captor()
    outer = _outer() if nested else None
    options, named = _options(settings)
    if outer is not None and settings is None:
        options = plans.within(outer, options)
    options = options.override(**arguments, resume=resume, disabled=checks.disabled(mode))
    checks.plain(options, config)
    takes_place_of = () if outer is not None else lifetime.befores(_launched)
    checks.identity(options, run_id, resume if run_id or not options.id else None, takes_place_of)
    if captor is not None:
        options = replace(options, disabled=mode is not None)
    given = {name for name, value in {**arguments, "api_key": api_key, "url": backend_url}.items() if value is not None}
    if options.disabled:
        return _silent(options, outer)
    _forget_disabled()
    place = take_place(options, nested=outer is not None)
    if nested:
        place = as_nested(place)
    is_top = place.is_top and outer is None
    if run_id is None and is_top and options.id is not None:
        run_id = options.id
        checks.identity(options, run_id, resume, takes_place_of)
    place = as_asked(place, run_id)
    if place.silent:
        return _silent_rank(options, place, outer)
    if captor is None and _launched is None and (run_is_ours() or (place.joins and home_above() is None)):
        begin_under_launcher()  # a process below it that has imported nothing which is intercepted
    fits = (
        captor is None
        and outer is None
        and _launched is not None
        and (_launched.id == place.run_id if place.joins else _launched.is_owner)
    )
    if _launched is not None and _launched.active and not _adopted and fits and run_id in (None, _launched.id):
        if settings is not None:
            given |= settings.model_fields_set
        return _adopt_launched(_launched, options, given, backend_url, api_key, config)
    if place.joins:
        return _join(options, place, given, backend_url, api_key, config)
    around = plans.around(outer, place.parent, options) if nested and settings is None else None
    if around is not None and "project" not in given:
        options = replace(options, project=around.project)
    home = captor.home if captor is not None else around.home if around is not None else usable_home(options.home)
    begun = None
    shared_id = place.run_id or (jobs.run_id_of_job(home) if is_top and captor is None else "")
    if run_id is not None:
        begun = identity.find(home, run_id, options.resume) if place.owner else identity.recall(home, run_id)
    elif place.owner and shared_id:
        begun = identity.begun_before(home, shared_id)
    inherited = around if begun is None and not given & {"backend", "api_key", "url"} else None
    given |= named
    kinds = options.backend if begun is None or "backend" in given else tuple(each.kind for each in begun.backends)
    if captor is not None:
        backends: tuple[BackendTarget, ...] = ()
    else:
        backends = inherited.backends if inherited else targets.resolve(kinds, home, backend_url, api_key)
    plan = plans.of_run(options, home, backends, shared_id or new_run_id(), owner=place.owner)
    if parent is None and (above := outer.id if outer is not None else place.parent):
        plan = replace(plan, parent=above)
    goes_on = bool(shared_id) and (run_id is None or options.resume != "never") and outer is None and jobs.said() > 1
    plan = replace(plan, rank_label=place.rank_label, carried=captor is None, resumed=goes_on)
    if begun is None and run_id is not None and place.owner:
        begun = identity.take(plan, options.resume)
    if begun is not None:
        plan = identity.resumed(plan, begun, {field for name, field in _BEGUN_WITH.items() if name in given})
        if not place.owner or (place.ranked and not attempts.has_begun(home, plan.run_id)):
            plan = replace(plan, resumed=goes_on)  # another rank has begun it a moment ago
    if outer is None:
        lifetime.make_way(lifetime.befores(_launched if run_id else None, captor.stand_in if captor else None), run_id)
    elif outer.is_owner and not outer.begun:
        outer.begin()  # under `tracelet run`: it has something in it
    run = Experiment(plan)
    if captor is not None:
        captor.runs.append(run)
    run.began_during = exits.under_way()
    try:
        if not active.begins_late():
            run.begin()
        lifetime.activate(run, options, outer, below=nested and bool(place.parent))
        if begun is not None and options.tags:
            run.set_tags(options.tags)
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
    seconds = 0.0 if wait is None else checks.seconds(wait)
    run = active.here()
    if run is None:
        _forget_disabled()
        return
    until = time.monotonic() + seconds
    try:
        lifetime.stop(run, *exits.outcome(run.began_during))
        if wait is None:
            lifetime.settle_one(run)
        elif wait != "durable":
            lifetime.wait_until_delivered(run, None if math.isinf(seconds) else max(until - time.monotonic(), 0.0))
    except Exception as error:  # stopping must not fail a training that went well
        swallow("stopping", error)


def get_active_experiment() -> Experiment | None:
    """The run that a metric logged here and now would belong to, or None. A disabled one records nothing, but is there."""
    run = active.current()
    if run is None:
        return _disabled
    return run if run.active or run in _silenced else None


def begin_under_launcher(told: Options | None = None) -> None:
    """In a process that `tracelet run` started, or a child: intercept; the run begins at its first record. Or as it is told."""
    global _launched, _adopted
    run_id = os.environ.get("TRACELET_RUN_ID")
    if (_launched is not None and told is None) or not run_id:
        return
    options, _adopted = told or Options.load(), False
    if options.disabled or is_silent_rank():
        return
    owner = os.environ.get("TRACELET_RUN_OWNER") == str(os.getpid())
    plan = plans.of_launcher(options, run_id) if owner else plans.of_writer(options, run_id, rank_label(), None, None)
    _launched = Experiment(plan)
    lifetime.activate(_launched, options)


def call_is_nested() -> bool:
    """Whether a decorated call is within a run, here and now: not in one that a launcher, or a test, has ready for it."""
    outer = _outer()
    below = home_above() is not None  # a process that began or joined a run left it there; else it is the launcher's
    if outer is None:
        return below and captive.captor() is None and is_below_a_run()
    return outer is not _launched or _adopted or below


def _outer() -> Experiment | None:
    """The run that a nested one is within."""
    captor = captive.captor()
    if captor is None and _launched is None and run_is_ours():
        begin_under_launcher()
    run = active.enclosing()
    return None if captor is not None and run is captor.stand_in else run


def _options(settings: TraceletSettings | None) -> tuple[Options, Set[str]]:
    """The settings, and the names of those that somebody has set."""
    if settings is None:
        found = read_environment(ENV_FILE)
        if "TRACELET_RUN_ID" in os.environ and "TRACELET_RUN_NAME_GIVEN" not in os.environ:
            return Options().override(**found), found.keys() - {"run_name"}  # the launcher's default
        return Options().override(**found), found.keys()
    try:
        return settings.options(), settings.model_fields_set
    except AttributeError:
        raise ConfigurationError(f"settings={settings!r} is no TraceletSettings") from None


def _adopt_launched(
    run: Experiment,
    options: Options,
    given: Set[str],
    backend_url: str | Mapping[str, str] | None,
    api_key: str | Mapping[str, str] | None,
    config: Mapping[str, Any] | None,
) -> Experiment:
    global _adopted
    _adopted = True
    if not run.begun and home_above() is None:  # a script's run has its name and its backends already
        run.revise(plans.adopted(run.plan, options, given, backend_url, api_key))
        from tracelet import frameworks, provenance

        if frameworks.SETTINGS & given:
            frameworks.install_all(run, options)
        if provenance.SETTINGS & given:
            provenance.begin(run, options)
    elif "tags" in given:
        run.set_tags(options.tags)
    for inner in nesting.within(run, active.running()):
        lifetime.hand_over(inner)
    active.begin(run, options=options)
    if config:
        run.log_params(config)
    return run


def _join(
    options: Options,
    place: Place,
    given: Set[str],
    backend_url: str | Mapping[str, str] | None,
    api_key: str | Mapping[str, str] | None,
    config: Mapping[str, Any] | None,
) -> Experiment:
    """Become a writer of the run of a process above. It has its name and its backends already."""
    run = known(place.run_id)
    if run is None or not run.active:
        run = Experiment(plans.of_writer(options, place.run_id, place.rank_label, backend_url, api_key))
    lifetime.activate(run, options)
    if "tags" in given:
        run.set_tags(options.tags)
    if config:
        run.log_params(config)
    return run


def _silent_rank(options: Options, place: Place, outer: Experiment | None) -> Experiment:
    """The run of a rank that records nothing. Until it is stopped it is the active one: the script runs on all ranks."""
    if outer is None:
        lifetime.make_way(lifetime.befores(_launched), None)
    # It has nothing to write but, where there is somebody to read it, why it failed.
    home = usable_home(options.home) if attempts.restarts() is not None else Path(os.devnull)
    run = Experiment(plans.of_run(options, home, (), place.run_id or new_run_id(), owner=False), enabled=False)
    _silenced.add(run)
    lifetime.activate(run, options.without_capture(), outer)
    return run


def _silent(options: Options, outer: Experiment | None) -> Experiment:
    global _disabled
    from tracelet import frameworks

    if outer is None and (before := active.superseded()) is not None:
        lifetime.stop(before, *exits.outcome(before.began_during))  # no collector is started after it
    run = Experiment(plans.of_run(options, Path(os.devnull), (), new_run_id(), owner=True), enabled=False)
    frameworks.install_all(run, options.without_capture())
    if outer is None:
        before, _disabled = _disabled, run
        run.on_leave = lambda *_: _forget_disabled(before)
    return run


def _forget_disabled(before: Experiment | None = None) -> None:
    global _disabled
    _disabled = before
