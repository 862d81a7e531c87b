"""What a run is to be: plans, made of settings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracelet.core import attempts, identity, nesting, targets
from tracelet.core.experiment import Experiment
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.core.place import as_owned
from tracelet.core.plan import BackendTarget, RunPlan
from tracelet.core.processes import home_above

__all__ = ["adopted", "around", "of_launcher", "of_run", "of_writer", "within"]

# Settings that a script may still decide under `tracelet run`, and where they go in a plan.
_OPEN: Final[Mapping[str, str]] = {
    "run_name": "name",
    "project": "project",
    "parent": "parent",
    "group": "group",
    "notes": "notes",
    "tags": "tags",
    "writer_prefix": "prefix",
    "spool_cap_bytes": "spool_cap",
    "flush_interval": "flush_interval",
    "collector_idle": "collector_idle",
    "retention_days": "retention_days",
    "retention_bytes": "retention_bytes",
    "stop_timeout": "stop_timeout",
}


def of_run(options: Options, home: Path, backends: tuple[BackendTarget, ...], run_id: str, *, owner: bool) -> RunPlan:
    """The plan of a run as the settings say."""
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
        retention_days=options.retention_days,
        retention_bytes=options.retention_bytes,
        stop_timeout=options.stop_timeout,
        stop_wait=options.stop_wait,
        parent=options.parent or "",
        group=options.group or "",
        notes=options.notes or "",
        tags=options.tags,
    )


def of_launcher(options: Options, run_id: str) -> RunPlan:
    """The plan of the run of `tracelet run`, in the process that owns it. One that was begun before goes on."""
    home = usable_home(options.home)
    begun = identity.begun_before(home, run_id)
    kinds = options.backend
    if begun is not None and "TRACELET_BACKEND" not in os.environ:
        kinds = tuple(each.kind for each in begun.backends)
    plan = of_run(options, home, targets.resolve(kinds, home), run_id, owner=True)
    if begun is None:
        return replace(plan, resumed=os.environ.get("TRACELET_RUN_GOES_ON") == "1")
    named = {"run_name": "name", "project": "project", "backend": "backends", "group": "group", "notes": "notes"}
    given = {field for name, field in named.items() if f"TRACELET_{name.upper()}" in os.environ}
    return identity.resumed(plan, begun, given if "TRACELET_RUN_NAME_GIVEN" in os.environ else given - {"name"})


def _default_name() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None) or (sys.argv or [""])[0]
    # A file's name may have bytes and characters that no tracker takes.
    stem = "".join(character if character.isprintable() else "_" for character in Path(script).stem)[:200].strip()
    return f"{stem or 'python'}-{time.strftime('%Y%m%d-%H%M%S')}"


def of_writer(
    options: Options,
    run_id: str,
    rank_label: str,
    backend_url: str | Mapping[str, str] | None,
    api_key: str | Mapping[str, str] | None,
) -> RunPlan:
    """The plan of a writer of a run that a process above this one began."""
    home = usable_home(home_above() or options.home)
    goes_on = attempts.is_restarted()
    plan = replace(of_run(options, home, (), run_id, owner=False), rank_label=rank_label, resumed=goes_on)
    return as_owned(plan) or replace(plan, backends=targets.resolve(options.backend, home, backend_url, api_key))


def adopted(
    plan: RunPlan,
    options: Options,
    given: Set[str],
    backend_url: str | Mapping[str, str] | None,
    api_key: str | Mapping[str, str] | None,
) -> RunPlan:
    """The plan of a launcher's run that has not begun, with what its command line left open as the script says it."""
    asked = of_run(options, plan.home, plan.backends, plan.run_id, owner=plan.owner)
    changes = {field: getattr(asked, field) for setting, field in _OPEN.items() if setting in given}
    if os.environ.get("TRACELET_RUN_NAME_GIVEN"):
        changes.pop("name", None)
    for field in ("project", "parent", "group", "notes"):
        if f"TRACELET_{field.upper()}" in os.environ:
            changes.pop(field, None)
    named = "TRACELET_BACKEND" in os.environ  # which ones; their addresses and keys were left open
    if given & ({"api_key", "url"} if named else {"backend", "api_key", "url"}):
        kinds = tuple(backend.kind for backend in plan.backends) if named else options.backend
        changes["backends"] = targets.resolve(kinds, plan.home, backend_url, api_key)
    return replace(plan, **changes)


def within(outer: Experiment, options: Options) -> Options:
    """The settings of a nested run: those of the outer one, but for what is said of one run alone."""
    base = nesting.options_of(outer)
    if base is None:
        return replace(options, run_name=None, parent=None)
    own = {name: getattr(options, name) for name in ("group", "tags", "notes", "disabled", "id", "resume")}
    return replace(base, run_name=None, parent=None, **own)


def around(outer: Experiment | None, above: str, options: Options) -> RunPlan | None:
    """The plan of the run that a nested one is within; None when there is none, or nobody knows of it any more.

    Args:
        outer: that run, in this process.
        above: else its id, in one above.
        options: the settings of the nested one.
    """
    if outer is not None or not above:
        return None if outer is None else outer.plan
    return as_owned(of_run(options, usable_home(home_above() or options.home), (), above, owner=False))
