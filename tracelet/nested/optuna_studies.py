"""A study of Optuna's in its run: what it searches with, and the best that it has found so far."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tracelet.frameworks.parameters import described, record_parameters

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.nested.optuna import OptunaFramework

__all__ = ["StudyRun"]

_ARGUMENTS: Final = ("n_trials", "timeout", "n_jobs")  # of `optimize`, behind the objective
_UNNAMED: Final = "no-name-"


class StudyRun:
    """The run that a study is in.

    Args:
        framework: that run's.
        run: the run.
        study: Optuna's.

    Attributes:
        study: likewise.
        label: what tells it from the run's other studies; empty for the first one.
    """

    def __init__(self, framework: OptunaFramework, run: Experiment, study: Any) -> None:
        self.run = run
        self.study = study
        self._framework = framework
        name = study.study_name
        others = len(framework.studies)
        unnamed = f"study-{others + 1}" if name.startswith(_UNNAMED) else name
        self.label = framework.studies.setdefault(name, unnamed if others else "")

    def named(self, name: str) -> str:
        """A name of this study's: behind its label, if it has one."""
        return f"{self.label}/{name}" if self.label else name

    def begin(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """Record what it searches with.

        Args:
            args: of `optimize`, without the objective.
            kwargs: likewise.
        """
        study = self.study
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}
        said: dict[str, Any] = {
            "direction": ", ".join(direction.name.lower() for direction in study.directions),
            "sampler": type(study.sampler).__name__,
            "pruner": type(study.pruner).__name__,
        }
        if not study.study_name.startswith(_UNNAMED):
            said["study_name"] = study.study_name
        said |= {name: given[name] for name in _ARGUMENTS if given.get(name) is not None}
        record_parameters(self._framework, {self.named("optuna"): said})

    def found(self, number: int) -> bool:
        """A trial of one objective has come to its end: record the best value of all so far.

        Args:
            number: the trial's.

        Returns:
            Whether that trial is the best one now.
        """
        if not self.run.active:
            return False
        try:
            best = self.study.best_trial
        except ValueError:  # none keeps the constraints
            return False
        self.run.record(self.named("best_value"), best.value, number, None)
        if best.number != number:
            return False
        params = {name: described(value) for name, value in best.params.items()}
        self._tell(best_trial=str(number), best_value=repr(best.value), best_params=json.dumps(params))
        return True

    def end(self) -> None:
        """`optimize` is over. Of several objectives there is no best trial, but those that none is better than."""
        if self.run.active and len(self.study.directions) > 1:
            self._tell(best_trials=", ".join(str(trial.number) for trial in self.study.best_trials))

    def _tell(self, **found: str) -> None:
        self.run.set_tags({self.named(f"optuna.{name}"): value for name, value in found.items()})
