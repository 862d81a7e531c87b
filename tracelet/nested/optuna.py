"""Optuna: each trial of a study is a run within the run in which the study is optimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core import active
from tracelet.frameworks.base import Framework
from tracelet.frameworks.places import Place
from tracelet.guard import Guard
from tracelet.nested.optuna_studies import StudyRun
from tracelet.nested.optuna_trials import Asked, Objective, TrialRun
from tracelet.patching import Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OptunaFramework"]

_STUDY: Final = Guard("recording a study of Optuna's")
_TRIAL: Final = Guard("recording a trial of Optuna's")

# What `optimize` works on in this context: from before Optuna asks for the trial until it has been told how that ended.
_at_work: ContextVar[TrialRun | None] = ContextVar("tracelet_optuna_trial", default=None)
_asked: Final = Asked()


class OptunaFramework(Framework):
    """Optuna in a run: the study's. `start_logging` gives every run one; those of trials too, for studies within them.

    Attributes:
        studies: the run's, in the order in which they began.
    """

    identifier: ClassVar[str] = "optuna"
    module: ClassVar[str] = "optuna"
    package: ClassVar[str] = "optuna"
    since: ClassVar[tuple[int, ...]] = (4,)
    before: ClassVar[tuple[int, ...]] = (6,)

    def __init__(self, captures: bool = True) -> None:
        super().__init__(captures)
        self.studies: dict[tuple[str, Any], None] = {}

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about its trials."""
        return {"captures": options.trials}

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return [] if options.trials else ["trials"]

    @classmethod
    def places(cls) -> list[Place]:
        """Where Optuna is listened to."""
        study, trial = "optuna.study.study", "optuna.trial._trial"
        return [
            Place(study, "Study", "optimize", _optimize),
            Place("optuna.study._optimize", "", "_run_trial", _run_trial),
            Place(study, "Study", "ask", _ask),
            Place(study, "Study", "tell", _tell),
            Place(trial, "Trial", "_suggest", _suggest),
            Place(trial, "Trial", "report", after("recording what a trial reports", _report)),
            Place(trial, "Trial", "set_user_attr", after("recording a trial's attribute", _attribute)),
        ]


def _optimize(switch: Switch) -> Wrapper:
    """`Study.optimize(func, …)`: the run is found here, where the context is the caller's. A pool's threads have none."""

    def wrapper(wrapped: Callable[..., Any], study: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        of_study = None
        if switch.on:
            with _STUDY:
                if args or "func" in kwargs:
                    of_study = StudyRun.of(study)
                if of_study is not None:
                    of_study.begin(args[1:], kwargs)
        if of_study is None:
            return wrapped(*args, **kwargs)
        if args:
            args = (Objective(args[0], of_study), *args[1:])
        else:
            kwargs = {**kwargs, "func": Objective(kwargs["func"], of_study)}
        try:
            return wrapped(*args, **kwargs)
        finally:
            with _STUDY:
                of_study.end()

    return wrapper


def _run_trial(switch: Switch) -> Wrapper:
    """What `optimize` does for one trial: ask, call the objective, tell."""

    def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not switch.on:
            return wrapped(*args, **kwargs)
        objective = args[1] if len(args) > 1 else kwargs.get("func")
        of_study = objective.of_study if isinstance(objective, Objective) else None
        trial = TrialRun(of_study)
        token = _at_work.set(trial)
        if isinstance(objective, Objective):
            objective = objective.of(trial)
            args, kwargs = (
                ((args[0], objective, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "func": objective})
            )
        try:
            with active.lent(of_study.run) if of_study is not None else nullcontext():
                try:
                    return wrapped(*args, **kwargs)
                finally:
                    with _TRIAL:
                        trial.end()
        finally:
            _at_work.reset(token)

    return wrapper


def _ask(switch: Switch) -> Wrapper:
    """`Study.ask`, by hand: `optimize` asks too, before it calls the objective."""

    def wrapper(wrapped: Callable[..., Any], study: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        trial = wrapped(*args, **kwargs)
        if switch.on and ((at_work := _at_work.get()) is None or at_work.called):
            with _TRIAL:
                of_study = StudyRun.of(study)
                if of_study is not None:
                    of_study.begin()
                    _asked.begin(of_study, trial)
        return trial

    return wrapper


def _tell(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], study: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        frozen = wrapped(*args, **kwargs)
        if switch.on:
            with _TRIAL:
                run = _asked.told(args[0] if args else kwargs.get("trial"), study, frozen)
                again = kwargs.get("skip_if_finished") or len(args) > 3  # it may have been told before
                if run is None and not again and (of_study := StudyRun.of(study)) is not None:  # asked elsewhere
                    of_study.begin()
                    run = TrialRun(of_study)
                    run.begin(frozen, apart=True, told=True)
                if run is not None:
                    run.finish(frozen)
        return frozen

    return wrapper


def _suggest(switch: Switch) -> Wrapper:
    """`Trial._suggest(name, distribution)`, by which all of `suggest_*` come to a value."""

    def wrapper(wrapped: Callable[..., Any], trial: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        value = wrapped(*args, **kwargs)
        if switch.on and (run := TrialRun.of(trial)) is not None:
            with _TRIAL:
                run.suggested({args[0] if args else kwargs["name"]: value})
        return value

    return wrapper


def _report(trial: Any, value: Any, step: Any) -> None:
    if (run := TrialRun.of(trial)) is not None:
        run.reported(int(step), float(value))


def _attribute(trial: Any, key: str, value: Any) -> None:
    if (run := TrialRun.of(trial)) is not None:
        run.attributes({key: value})
