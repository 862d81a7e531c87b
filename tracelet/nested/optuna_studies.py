"""A study of Optuna's in its run: what it searches with, and the best that it has found so far."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from tracelet.core import nesting
from tracelet.frameworks.parameters import described, record_parameters
from tracelet.nested import children

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.nested.optuna import OptunaFramework

__all__ = ["StudyRun", "identity"]

_ARGUMENTS: Final = ("n_trials", "timeout", "n_jobs")  # of `optimize`, behind the objective
_UNNAMED: Final = "no-name-"


def identity(study: Any) -> tuple[str, Any]:
    """What a study is known by: its name, and where it is in memory only, that storage too."""
    from optuna.storages import InMemoryStorage

    storage = study._storage
    return study.study_name, weakref.ref(storage) if isinstance(storage, InMemoryStorage) else None


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
        self.label = self._labelled(study.study_name)

    @classmethod
    def of(cls, study: Any) -> StudyRun | None:
        """A study in the run in which it is searched here and now; None when nothing is recorded there.

        A thread has no context: what other threads work on is beside it, and a study is not within a trial of its own.
        """
        run = children.around()
        while run is not None and run.plan.tags.get("optuna.study") == study.study_name:
            run = nesting.outer_of(run)
        framework = (
            None if run is None or not run.active else cast("OptunaFramework | None", run._frameworks.get("optuna"))
        )
        return cls(framework, run, study) if run is not None and framework is not None and framework.tracking else None

    def _labelled(self, name: str) -> str:
        known = self._framework.studies
        known.setdefault(itself := identity(self.study))
        place = list(known).index(itself)  # two threads that begin at once do not both come to be the first
        before = [other for other, _ in list(known)[:place]]
        if not before:
            return ""
        unnamed = name.startswith(_UNNAMED)
        return f"{'study' if unnamed else name}-{place + 1}" if unnamed or name in before else name

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
        told = None
        while told != best.number:  # another thread may have found, and told, a better one meanwhile
            params = {name: described(value) for name, value in best.params.items()}
            self._tell(best_trial=str(best.number), best_value=repr(best.value), best_params=json.dumps(params))
            told, best = best.number, self.study.best_trial
        return True

    def end(self) -> None:
        """`optimize` is over. Of several objectives there is no best trial, but those that none is better than."""
        if self.run.active and len(self.study.directions) > 1:
            self._tell(best_trials=", ".join(str(trial.number) for trial in self.study.best_trials))

    def _tell(self, **found: str) -> None:
        self.run.set_tags({self.named(f"optuna.{name}"): value for name, value in found.items()})
