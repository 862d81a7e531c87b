"""The steps of a workflow: a run for each that records something, within the run around the workflow.

An executor tells a callback when a step begins and ends: ours is the first among those that it is given. Of a step whose result
is in the cache it tells nobody; that is seen where the cache is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from tracelet.core.experiment import Experiment
from tracelet.core.metrics import RunStatus
from tracelet.frameworks.base import Framework
from tracelet.frameworks.lightning_metrics import flat, numbers
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.guard import Guard, swallow
from tracelet.nested import children, formed_origins
from tracelet.nested.formed_origins import Origin
from tracelet.patching import Switch, Wrapper, after

__all__ = ["places"]

_WATCHING: Final = "watching the steps of a workflow"
_GUARD: Final = Guard(_WATCHING)
_REMEMBERING: Final = Guard("remembering where a step was executed")
_execution: ContextVar[_Execution | None] = ContextVar("tracelet_formed_execution", default=None)


def places(library: type[Framework]) -> list[Place]:
    """Where workflows are seen."""
    watched = _executor(library)
    executors = ("DefaultWorkflowExecutor", "AsyncWorkflowExecutor")
    return [Place(".executor", name, "__call__", watched) for name in executors]


def _executor(library: type[Framework]) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], executor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            execution = None
            if switch.on:
                try:
                    if library.here() is not None:
                        execution = _Execution(library, kwargs.get("cache"), kwargs.get("callback"))
                        kwargs = {**kwargs, "callback": execution.among()}
                except Exception as error:
                    execution = None
                    swallow(_WATCHING, error)
            if execution is None:
                return wrapped(*args, **kwargs)
            token = _execution.set(execution)
            try:
                return wrapped(*args, **kwargs)
            finally:
                _execution.reset(token)
                execution.over()

        return wrapper

    return build


def _cache_read(library: type[Framework]) -> Callable[[Switch], Wrapper]:
    def read(cache: Any, info: Any) -> None:
        execution = _execution.get()
        if execution is not None and cache is execution.cache and library.here() is not None:
            execution.found_in_cache(info)

    return after("seeing a step's cached result", read)


class _Execution:
    """One execution of a workflow, as its callbacks see it.

    Args:
        library: the framework's class.
        cache: of the steps' results; None for none.
        callback: what the executor was given; None for nothing.
    """

    def __init__(self, library: type[Framework], cache: Any, callback: Any) -> None:
        from formed.workflow.callback import EmptyWorkflowCallback

        self.cache = cache
        self._given = EmptyWorkflowCallback() if callback is None else callback
        self._library = library
        run = children.around()
        around = None if run is None or not run.active else run._frameworks.get(library.identifier)
        self._around = around if isinstance(around, Framework) and around.tracking else None
        self._info: Any = None
        self._seen: set[str] = set()  # fingerprints of steps that were executed, or found in the cache
        self._running: dict[str, list[Experiment | None]] = {}
        self._executed: dict[str, Experiment] = {}
        if cache is not None:
            owner = next((kind for kind in type(cache).__mro__ if "__getitem__" in vars(kind)), None)
            if owner is not None:
                library.patch_method(owner, "__getitem__", _cache_read(library))

    def among(self) -> Any:
        """A callback that calls this one, and then those that were given: nothing that they raise keeps it from its word."""
        from formed.workflow.callback import MultiWorkflowCallback

        ours: Any = self  # formed asks for nothing but the methods
        return MultiWorkflowCallback([ours, self._given])

    # -- what the executor calls

    def on_execution_start(self, execution: Any) -> None:
        """Tell what the workflow is made of: also the steps that get no run."""
        with _GUARD:
            execution.callback = self._given  # what others see, and what is returned
            self._info = execution.info
            if self._around is not None:
                for info in execution.info.graph:
                    record_parameters(self._around, {f"steps/{info.name}": _parameters(info)})

    def on_execution_end(self, execution: Any) -> None:
        """Tell what formed calls it: the organizer has named it meanwhile."""
        with _GUARD:
            run = None if self._around is None else self._around.experiment
            if run is not None and run.active and execution.info.id is not None:
                run.set_tags({"formed.execution": execution.info.id})

    def on_step_start(self, step: Any, execution: Any) -> None:
        """A step begins: from here on, what it records is in a run of its own."""
        with _GUARD:
            info = step.info
            self._seen.add(info.fingerprint)
            run = None
            if self._library.here() is not None:
                run = children.begin(info.name, tags=self._tags(info), late=True)
                if run is not None:
                    run.occasions.when_begun(partial(self._tell, run, info))
            self._running.setdefault(info.fingerprint, []).append(run)

    def on_step_end(self, step: Any, execution: Any) -> None:
        """It is over: finished, failed or interrupted, as the exception says that passes by."""
        with _GUARD:
            info, state = step.info, step.state.status.value
            runs = self._running.get(info.fingerprint)
            run = runs.pop() if runs else None
            if state == "completed":
                self._measured(info, step.result)
            if run is None:
                return
            if state == "completed":
                children.end(run, RunStatus.FINISHED)
            else:
                run.begin()  # a step that fails is worth a run, whatever it has recorded
                children.end(run)
            if run.begun and state == "completed" and info.should_be_cached:
                self._executed[info.fingerprint] = run
                run.links()  # they are asked for, behind our back
                self._remember(info.fingerprint, run)

    # -- what the cache says

    def found_in_cache(self, info: Any) -> None:
        """A step is not executed: its result is there. Where it has, or would have had, a run, it gets one that says so."""
        run = self._library.here()
        experiment = None if run is None else run.experiment
        if experiment is None or info.fingerprint in self._seen:
            return
        self._seen.add(info.fingerprint)
        origin = formed_origins.find(experiment.plan.home, info.fingerprint)
        if origin is None and not _measures(info):
            return
        tags = {**self._tags(info), "cached": "true"}
        if origin is not None:
            tags["cached_from"] = origin.run
            if origin.url:
                tags["cached_url"] = origin.url
        if (child := children.begin(info.name, tags=tags)) is not None:
            self._tell(child, info)
            children.end(child, RunStatus.FINISHED)

    def over(self) -> None:
        """The workflow is over: trackers have said meanwhile where its steps' runs are, perhaps."""
        for fingerprint, run in self._executed.items():
            with _REMEMBERING:
                if run.url:
                    self._remember(fingerprint, run)

    # --

    def _tell(self, run: Experiment, info: Any) -> None:
        framework = run._frameworks.get(self._library.identifier)
        if isinstance(framework, Framework):
            record_parameters(framework, _parameters(info))

    def _tags(self, info: Any) -> dict[str, str]:
        """What formed calls a step, and the execution: the organizer has named that when it began."""
        tags = {
            "formed.execution": None if self._info is None else self._info.id,
            "formed.step": _type(info),
            "formed.fingerprint": info.fingerprint,
            "formed.tags": ", ".join(info.tags),
        }
        return {name: str(value) for name, value in tags.items() if value}

    def _measured(self, info: Any, result: Any) -> None:
        """Record the numbers that are a step's result."""
        framework = self._library.here()
        run = None if framework is None else framework.experiment
        if run is None or not _measures(info) or not isinstance(result, Mapping):
            return
        prefix = "test/" if _type(info).endswith("::evaluate") else ""
        for name, value in flat(numbers(result)):
            run.record(name if name.startswith(prefix) else f"{prefix}{name}", value, None, None)

    def _remember(self, fingerprint: str, run: Experiment) -> None:
        with _REMEMBERING:
            formed_origins.keep(run.plan.home, fingerprint, Origin(run.id, run.name, run.url or ""))


def _measures(info: Any) -> bool:
    """Whether a step's result is numbers, by its declaration."""
    from formed.workflow.step import WorkflowStepResultFlag

    return info.is_live() and WorkflowStepResultFlag.METRICS in WorkflowStepResultFlag.get_flags(info)


def _type(info: Any) -> str:
    """The name under which a step is registered."""
    config = info.step.config
    return str(config.get("type", "")) if isinstance(config, Mapping) else ""


def _parameters(info: Any) -> dict[str, Any]:
    """A step's configuration, and the seed that it has where that says none."""
    config = info.step.config
    said = {name: _short(value) for name, value in config.items()} if isinstance(config, Mapping) else {}
    if "random_seed" not in said and info.is_live():
        seed = inspect.signature(info.step_class.__init__).parameters.get("random_seed")
        if seed is not None and isinstance(seed.default, int):
            said["random_seed"] = seed.default
    return said


def _short(given: Any) -> Any:
    """A configuration in which what refers to a step's result is its name."""
    if isinstance(given, Mapping):
        if given.keys() == {"type", "ref"} and given["type"] == "ref":
            return given["ref"]
        return {name: _short(value) for name, value in given.items()}
    return [_short(each) for each in given] if isinstance(given, list | tuple) else given
