"""What makes no sense of what `start_logging` and `stop_logging` are given. All of it is a `ConfigurationError`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.options import Options
from tracelet.core.plan import check_run_id
from tracelet.errors import ConfigurationError

__all__ = ["disabled", "identity", "plain", "seconds"]

_LONGEST_NAME: Final = 1000


def plain(options: Options, config: object) -> None:
    """Whether names and parameters are some."""
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(f"config={config!r:.80} makes no sense; give a mapping of parameters")
    for what, name in (("exp_name", options.run_name), ("project", options.project)):
        if name is not None and len(name) > _LONGEST_NAME:
            raise ConfigurationError(f"{what} has {len(name)} characters; {_LONGEST_NAME} are allowed")


def disabled(mode: object) -> bool | None:
    """Whether `mode` asks for nothing at all; None: it does not say."""
    if mode not in (None, "disabled"):
        raise ConfigurationError(f"mode={mode!r} makes no sense; give 'disabled', or leave it out")
    return True if mode else None


def identity(options: Options, run_id: object, resume: object, befores: Collection[Experiment | None]) -> None:
    """Whether a run can have an id. `befores`: those that it would take the place of."""
    if resume not in (None, "never", "auto", "must", "checkpoint"):
        raise ConfigurationError(f"resume={resume!r} makes no sense; choose 'never', 'auto', 'must' or 'checkpoint'")
    if run_id is None:
        if resume in ("auto", "must"):
            raise ConfigurationError(f"resume={resume!r} is about a run of a known id: pass run_id too")
        return
    check_run_id(run_id)
    if options.parent == run_id:
        raise ConfigurationError(f"parent={run_id!r} makes no sense; a run does not belong to itself")
    if any(run.id == run_id and run.active and run not in befores for run in active.running()):
        raise ConfigurationError(f"the run {run_id!r} is recorded in another thread or context of this process")


def seconds(wait: Any) -> float:
    """Seconds to wait for delivery; 0 for none, infinity for as long as it takes."""
    if isinstance(wait, str) and wait in ("durable", "delivered"):
        return math.inf if wait == "delivered" else 0.0
    try:
        wanted = math.nan if isinstance(wait, bool | str) else float(wait)
    except (TypeError, ValueError, OverflowError):
        wanted = math.nan
    if not 0 <= wanted < math.inf:
        raise ConfigurationError(f"wait={wait!r}: choose 'durable', 'delivered' or a number of seconds")
    return wanted
