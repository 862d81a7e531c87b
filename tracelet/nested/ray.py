"""Ray Tune: each trial is a run within the run in which the experiment is started, and its worker writes to that.

The driver begins the trials' runs and ends them: it knows how a trial ended, also where its worker is killed, and it has the
results as Tune keeps them. See `tracelet.nested.ray_workers` for what a training logs in the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tracelet.core import active
from tracelet.frameworks.base import Framework
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.guard import Guard
from tracelet.nested import ray_carried, ray_trials
from tracelet.patching import Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["RayFramework"]

_CARRYING = Guard("telling Ray's workers of their runs")
_ENDING = Guard("ending the runs of Ray's trials")
_STOPPING = Guard("recording that a scheduler has stopped a trial")


class RayFramework(Framework):
    """Ray Tune in a run: the driver's. `start_logging` gives every run one.

    Attributes:
        experiments: by name, what is put before the parameters of each of the run's experiments; nothing for the first one.
    """

    identifier: ClassVar[str] = "ray"
    module: ClassVar[str] = "ray.tune"
    package: ClassVar[str] = "ray"
    since: ClassVar[tuple[int, ...]] = (2, 43)
    before: ClassVar[tuple[int, ...]] = (3,)

    def __init__(self, captures: bool = True) -> None:
        super().__init__(captures)
        self.experiments: dict[str, str] = {}

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
        """Where Ray Tune is listened to."""
        controller, callbacks = ".execution.tune_controller", "CallbackList"
        board, optuna = "ray.tune.logger.tensorboardx", "ray.tune.search.optuna.optuna_search"
        return [
            Place(controller, "TuneController", "__init__", after("recording Tune's settings", _controller)),
            Place(controller, "TuneController", "cleanup", _cleanup),
            Place(".execution.class_cache", "_ActorClassCache", "get", _class_of_actors),
            Place(".experiment.trial", "Trial", "handle_error", after("recording a trial's error", _error)),
            Place(".callback", callbacks, "on_trial_start", after("beginning a trial's run", _start)),
            Place(".callback", callbacks, "on_trial_result", after("recording a trial's result", _result)),
            Place(".callback", callbacks, "on_trial_complete", after("ending a trial's run", _complete)),
            Place(".callback", callbacks, "on_trial_error", after("ending a trial's run", _failed)),
            # They write what is recorded anyway, of all trials, in the driver's process.
            *(Place(board, "TBXLoggerCallback", f"log_trial_{when}", _muted) for when in ("start", "result", "end")),
            # It asks a study of Optuna's for what Tune is to try.
            *(
                Place(optuna, "OptunaSearch", name, _muted, later=True)
                for name in ("suggest", "on_trial_result", "on_trial_complete")
            ),
        ]


def _controller(controller: Any, *args: Any, **kwargs: Any) -> None:
    framework = RayFramework.here()
    if framework is None:
        return
    scheduler, search = controller._scheduler_alg, controller._search_alg
    searcher = getattr(search, "searcher", search)
    name = getattr(controller._storage, "experiment_dir_name", None)
    label = framework.experiments.setdefault(str(name), f"{name}/" if framework.experiments else "")
    said = {
        "experiment": name,
        "scheduler": type(scheduler).__name__,
        "search_alg": type(getattr(searcher, "searcher", searcher)).__name__,
        "metric": controller._metric,
    }
    record_parameters(framework, {f"{label}ray": {name: value for name, value in said.items() if value is not None}})
    owner = next(kind for kind in type(scheduler).__mro__ if "on_trial_result" in vars(kind))
    RayFramework.patch_method(owner, "on_trial_result", _scheduler)


def _scheduler(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], scheduler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        decision = wrapped(*args, **kwargs)
        if switch.on and decision == "STOP":
            with _STOPPING:
                ray_trials.stopped_by(args[1] if len(args) > 1 else kwargs["trial"], type(scheduler).__name__)
        return decision

    return wrapper


def _cleanup(switch: Switch) -> Wrapper:
    """The experiment is over. What Tune still stops then was not at its end: somebody has interrupted it."""

    def wrapper(wrapped: Callable[..., Any], controller: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        live: list[Any] = []
        if switch.on:
            with _ENDING:
                live = [trial for trial in controller._trials if not trial.is_finished()]
        try:
            return wrapped(*args, **kwargs)
        finally:
            if switch.on:
                with _ENDING:
                    ray_trials.end_all(controller._trials, live)

    return wrapper


def _class_of_actors(switch: Switch) -> Wrapper:
    """Which class the workers are actors of: one that joins the trial's run, and else is the trainable."""

    def wrapper(wrapped: Callable[..., Any], cache: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        kind = args[0] if args else kwargs.get("trainable_cls")
        if switch.on and isinstance(kind, type):
            with _CARRYING:
                framework = RayFramework.here()
                if framework is not None and framework.experiment is not None:
                    kind = ray_carried.of(cache, kind, framework.experiment)
                    args, kwargs = (kind,), {}
        return wrapped(*args, **kwargs)

    return wrapper


def _start(_: Any, *, trial: Any, **info: Any) -> None:
    ray_trials.begin(RayFramework.here(), trial)


def _result(_: Any, *, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
    ray_trials.result(trial, result)


def _complete(_: Any, *, trial: Any, **info: Any) -> None:
    ray_trials.complete(trial)


def _failed(_: Any, *, trial: Any, **info: Any) -> None:
    ray_trials.failed(trial)


def _error(trial: Any, exc: Any = None) -> None:
    ray_trials.begin(RayFramework.here(), trial)  # it may never have started
    ray_trials.error(trial, exc)


def _muted(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not switch.on or RayFramework.here() is None:
            return wrapped(*args, **kwargs)
        with active.muted():
            return wrapped(*args, **kwargs)

    return wrapper
