"""A trial of Optuna's and its run: parameters as they are suggested, what is reported, and how it ends.

What Optuna's storage has of the trial in the end is what counts: whatever was not seen on the way is recorded then.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet import exits
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.frameworks.parameters import described, record_parameters
from tracelet.guard import Guard
from tracelet.nested import children
from tracelet.nested.optuna_studies import identity

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.nested.optuna_studies import StudyRun

__all__ = ["Asked", "Objective", "TrialRun"]

_BEGINNING: Final = Guard("beginning a trial's run")
_FRAMEWORK: Final = "optuna"


class TrialRun:
    """The run of one trial.

    Args:
        of_study: the run around it; None when there is none, and then nothing of the trial is recorded.

    Attributes:
        called: the objective has been called.
        outcome: how the objective ended, if by an exception.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Any, TrialRun]] = weakref.WeakKeyDictionary()

    def __init__(self, of_study: StudyRun | None) -> None:
        self.called = False
        self.outcome: tuple[RunStatus, str] | None = None
        self._of_study = of_study
        self._run: Experiment | None = None
        self._trial: Any = None
        self._reported: set[int] = set()
        self._attributes: dict[str, str] = {}

    @classmethod
    def of(cls, trial: Any) -> TrialRun | None:
        """A trial's, while it goes on."""
        return cls._of.get(trial)

    def begin(self, trial: Any, *, apart: bool = False, told: bool = False) -> None:
        """Begin the run. Where the study's is over, whatever the script runs now is not the study's.

        Args:
            trial: Optuna's.
            apart: it does not become the active one.
            told: the trial is over: nothing more happens to it.
        """
        if self._of_study is None or not self._of_study.run.active:
            return
        self._trial = trial
        tags = {"optuna.study": self._of_study.study.study_name, "optuna.trial": str(trial.number)}
        # A thread that asks has no context: its trial is not within one that the main thread is at.
        with active.lent(self._of_study.run) if apart else nullcontext():
            self._run = children.begin(self._of_study.named(f"trial-{trial.number}"), tags=tags, apart=apart)
        if self._run is not None and not told:
            self._of[trial] = self

    def suggested(self, params: Mapping[str, Any]) -> None:
        """Values have been suggested."""
        if (run := self._recording()) is not None and (framework := run._frameworks.get(_FRAMEWORK)) is not None:
            record_parameters(framework, params)

    def reported(self, step: int, value: float) -> None:
        """An intermediate value. Of each step the first counts, as for Optuna."""
        if (run := self._recording()) is not None and step not in self._reported:
            self._reported.add(step)
            run.record("intermediate_value", value, step, None)

    def attributes(self, attributes: Mapping[str, Any]) -> None:
        """Attributes that the user has given it."""
        tags = {f"optuna.user_attrs.{name}": str(described(value)) for name, value in attributes.items()}
        new = {name: value for name, value in tags.items() if self._attributes.get(name) != value}
        if new and (run := self._recording()) is not None:
            self._attributes |= new
            run.set_tags(new)

    def end(self) -> None:
        """`optimize` is done with it: see what Optuna's storage says."""
        if self._run is not None:
            self.finish(self._trial.study._storage.get_trial(self._trial._trial_id))

    def finish(self, frozen: Any) -> None:
        """Record what is there in the end, and end the run.

        Args:
            frozen: the trial as Optuna's storage has it.
        """
        try:
            if (run := self._recording()) is not None and self._of_study is not None:
                self._complete(run, self._of_study, frozen)
        finally:
            run, self._run, self._trial = self._run, None, None  # it goes when the script has no more use for it
            children.end(run, *self._how(frozen))

    def _complete(self, run: Experiment, of_study: StudyRun, frozen: Any) -> None:
        self.suggested(frozen.params)
        for step, value in sorted(frozen.intermediate_values.items()):
            self.reported(step, value)
        self.attributes(frozen.user_attrs)
        state = frozen.state.name.lower()
        tags = {"optuna.state": state}
        for name, value in zip(_names(of_study.study), frozen.values or (), strict=False):
            run.record(name, value, frozen.number, None)
        if state == "pruned":
            tags["pruned"] = "true"
        if state == "complete" and len(of_study.study.directions) == 1 and of_study.found(frozen.number):
            tags["optuna.best_so_far"] = "true"
        run.set_tags(tags)

    def _how(self, frozen: Any) -> tuple[RunStatus | None, str]:
        state = frozen.state.name
        if state in ("COMPLETE", "PRUNED"):
            return RunStatus.FINISHED, ""
        if self.outcome is not None:
            return self.outcome
        return (RunStatus.FAILED, "Optuna has no value of it") if state == "FAIL" else (None, "")

    def _recording(self) -> Experiment | None:
        """The run, unless the script has stopped it."""
        return self._run if self._run is not None and self._run.active else None


class Objective:
    """An objective function on its way through `optimize`, with the run that the study is in.

    Args:
        function: the user's.
        of_study: the run.
        trial: the run of the trial that it is called for.
    """

    def __init__(self, function: Callable[..., Any], of_study: StudyRun, trial: TrialRun | None = None) -> None:
        self.of_study = of_study
        self._function = function
        self._trial = trial

    def of(self, trial: TrialRun) -> Objective:
        """The same for one trial."""
        return Objective(self._function, self.of_study, trial)

    def __call__(self, trial: Any) -> Any:
        """Call the function, in the trial's run."""
        of_trial = self._trial
        if of_trial is None:
            return self._function(trial)
        of_trial.called = True
        with _BEGINNING:
            of_trial.begin(trial)
        try:
            return self._function(trial)
        except BaseException as error:
            of_trial.outcome = exits.of_exception(error)
            raise


class Asked:
    """Trials that a script has asked for by itself, until it tells how they ended."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, int], TrialRun] = {}

    def begin(self, of_study: StudyRun, trial: Any) -> None:
        """A trial was asked for."""
        run = TrialRun(of_study)
        run.begin(trial, apart=True)
        self._open[identity(of_study.study), trial.number] = run
        run.suggested(trial.params)

    def told(self, trial: Any, study: Any, frozen: Any) -> TrialRun | None:
        """The run of a trial that was told now; None when it was not asked for here.

        Args:
            trial: what `tell` was given: the trial, a copy of it, or its number.
            study: Optuna's.
            frozen: the trial as its storage has it.
        """
        by_number = self._open.pop((identity(study), frozen.number), None)
        return by_number if isinstance(trial, int) else TrialRun.of(trial) or by_number


def _names(study: Any) -> list[str]:
    """What the values of a trial are called."""
    if (names := study.metric_names) is not None:
        return list(names)
    number = len(study.directions)
    return ["value"] if number == 1 else [f"value/{index}" for index in range(number)]
