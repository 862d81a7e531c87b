"""The runs of Ray Tune's trials, in the driver: parameters, results, and how each ended."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tracelet import exits
from tracelet.core.metrics import RunStatus
from tracelet.frameworks.parameters import record_parameters
from tracelet.nested import children
from tracelet.nested.ray_carried import run_id_of

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.frameworks.base import Framework

__all__ = ["begin", "complete", "end_all", "error", "failed", "result", "stopped_by"]

_STEP: Final = "training_iteration"
# What Tune adds to what is reported, or is told by it.
_NOT_REPORTED: Final = frozenset(
    {
        _STEP,
        "__duplicate__",
        "checkpoint_dir_name",
        "config",
        "date",
        "done",
        "episodes_total",
        "experiment_id",
        "experiment_tag",
        "hostname",
        "iterations_since_restore",
        "node_ip",
        "pid",
        "should_checkpoint",
        "time_since_restore",
        "time_this_iter_s",
        "time_total_s",
        "timestamp",
        "timesteps_since_restore",
        "timesteps_total",
        "trial_id",
    }
)


@dataclass
class _Trial:
    run: Experiment
    outcome: tuple[RunStatus, str] | None = None


_trials: Final[weakref.WeakKeyDictionary[Any, _Trial]] = weakref.WeakKeyDictionary()


def begin(framework: Framework | None, trial: Any) -> None:
    """A trial's worker is there; also again, after a pause or a failure, perhaps with other parameters.

    Args:
        framework: the driver's; None when nothing is recorded.
        trial: Ray's.
    """
    if framework is None or framework.experiment is None:
        return
    known = _trials.get(trial)
    if known is None:
        tags = {"ray.trial_id": trial.trial_id, "ray.experiment": trial.experiment_dir_name}
        run_id = run_id_of(framework.experiment.id, trial.trial_id)
        run = children.begin(str(trial), tags=tags, apart=True, run_id=run_id, resume="auto")
        if run is None:
            return
        known = _trials[trial] = _Trial(run)
    if (of_run := known.run._frameworks.get(framework.identifier)) is not None:
        record_parameters(of_run, trial.config)


def result(trial: Any, reported: Mapping[str, Any]) -> None:
    """A trial has reported, and Tune has kept it.

    Args:
        trial: Ray's.
        reported: the result, as Tune has it.
    """
    if (known := _trials.get(trial)) is None:
        return
    step = int(reported[_STEP])
    for name, value in _numbers({name: value for name, value in reported.items() if name not in _NOT_REPORTED}):
        known.run.record(f"ray/tune/{name}", value, step, None)


def stopped_by(trial: Any, scheduler: str) -> None:
    """A scheduler has decided that a trial is at its end."""
    if (known := _trials.get(trial)) is not None:
        known.run.set_tags({"ray.stopped_by": scheduler})


def error(trial: Any, exception: Any) -> None:
    """A trial has failed. It may be started again."""
    if (known := _trials.get(trial)) is None:
        return
    cause = getattr(exception, "cause", None)
    cause = cause if isinstance(cause, BaseException) else exception
    if isinstance(cause, BaseException):
        known.outcome = RunStatus.FAILED, _reason(cause)


def _reason(exception: BaseException) -> str:
    """The words of an exception, in a line: of one in `setup`, or in Tune, which comes as the text of a traceback, the last."""
    lines = [line for line in str(exception).splitlines() if line.strip()]
    if len(lines) > 1 and ("creation task" in lines[0] or lines[0].startswith("Traceback ")):
        return exits.told(lines[-1].strip())
    return " ".join(exits.of_exception(exception)[1].split())


def complete(trial: Any) -> None:
    """A trial is at its end."""
    _end(trial, "terminated", (RunStatus.FINISHED, ""))


def failed(trial: Any) -> None:
    """A trial has failed, and is not started again."""
    known = _trials.get(trial)
    _end(trial, "error", (known and known.outcome) or (RunStatus.FAILED, ""))


def end_all(trials: Iterable[Any], live: Iterable[Any]) -> None:
    """An experiment is over.

    Args:
        trials: its trials.
        live: those that were not at their end.
    """
    status, reason = exits.outcome()
    error = sys.exc_info()[1]
    if status is RunStatus.FINISHED:
        status, reason = RunStatus.KILLED, "interrupted"
    elif error is not None:
        reason = _reason(error)
    for trial in live:
        _end(trial, "interrupted", (status, reason))
    for trial in trials:
        failed(trial) if trial.status == "ERROR" else complete(trial)


def _end(trial: Any, status: str, how: tuple[RunStatus, str]) -> None:
    if (known := _trials.pop(trial, None)) is not None:
        known.run.set_tags({"ray.status": status})
        children.end(known.run, *how)


def _numbers(reported: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a result, with `/` between the names of what is in one another, as Tune writes them to its files."""
    for name, value in reported.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) or (hasattr(value, "dtype") and getattr(value, "ndim", None) == 0):
            try:
                yield f"{before}{name}", float(value)
            except (TypeError, ValueError, OverflowError):  # complex, a date
                continue
