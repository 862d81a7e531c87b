"""What a run is to be: plans, made of settings."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tracelet.core import nesting, targets
from tracelet.core.experiment import Experiment
from tracelet.core.home import usable_home
from tracelet.core.options import Options
from tracelet.core.place import as_owned
from tracelet.core.plan import BackendTarget, RunPlan
from tracelet.core.processes import home_above

__all__ = ["around", "of_run", "of_writer", "within"]


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
    plan = replace(of_run(options, home, (), run_id, owner=False), rank_label=rank_label)
    return as_owned(plan) or replace(plan, backends=targets.resolve(options.backend, home, backend_url, api_key))


def within(outer: Experiment, options: Options) -> Options:
    """The settings of a nested run: those of the outer one, but for what is said of one run alone."""
    base = nesting.options_of(outer)
    if base is None:
        return replace(options, run_name=None, parent=None)
    own = {name: getattr(options, name) for name in ("group", "tags", "notes", "disabled")}
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
