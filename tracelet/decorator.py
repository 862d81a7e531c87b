"""`@tracelet.run`: each call of a function is a run."""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar, overload

from tracelet import interface
from tracelet.arguments import parameters
from tracelet.core.experiment import Experiment
from tracelet.guard import Guard

__all__ = ["run"]

P = ParamSpec("P")
R = TypeVar("R")

_ARGUMENTS: Final = Guard("recording a call's arguments")


@overload
def run(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def run(
    exp_name: str | None = None, /, *, params: bool = True, nested: bool | None = None, **settings: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def run(
    function: Callable[..., Any] | str | None = None,
    /,
    *,
    params: bool = True,
    nested: bool | None = None,
    **settings: Any,
) -> Any:
    """Have each call of a function be a run: `@tracelet.run`, or `@tracelet.run(project="digits")`.

    The run has the function's name, and the arguments of the call, defaults too, as its parameters. It ends when the call does:
    finished when it returns, failed by an exception, killed by an interrupt or a cancellation. What the function returns or
    raises passes untouched. It may be a coroutine function, a generator function (then the run lasts from the first value to
    the last, and what its consumer logs between two values is the consumer's), a method.

    A call within a run is nested in that: see `start_logging`. Under `tracelet run` the first call outside of all runs
    adopts the launcher's run, as `start_logging` does.

    Mappings and dataclasses among the arguments come apart (`config/lr`); models, data sets and other large objects are
    recorded as the names of their types, arrays and tensors with their shapes, and what has a secret's name as `REDACTED`.

    Args:
        function: the function; or the runs' name.
        params: record the arguments.
        nested: whether a call is nested in the run that is active: always (in the launcher's too), never (it takes the place
            of that), or by default when there is one that somebody started.
        settings: arguments of `start_logging`: `exp_name`, `project`, `backend`, `tags`, ….

    Raises:
        TypeError: this cannot be decorated, or `start_logging` has no such argument.
    """
    if isinstance(function, str):
        settings = {"exp_name": function, **settings}
        function = None
    known = inspect.signature(interface.start_logging).parameters
    if unknown := [name for name in settings if name not in known]:
        raise TypeError(f"tracelet.run() got an unexpected argument {unknown[0]!r}; it takes those of start_logging")
    made = functools.partial(_decorated, params=params, nested=nested, settings=settings)
    return made if function is None else made(function)


def _decorated(function: Any, params: bool, nested: bool | None, settings: Mapping[str, Any]) -> Any:
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_decorated(function.__func__, params, nested, settings))
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"tracelet.run decorates functions, not {function!r:.80}")
    if inspect.isasyncgenfunction(function):
        raise TypeError("tracelet.run decorates no asynchronous generators: decorate what goes through them")
    calls = _Calls(function, params, nested, settings)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with calls.begin(args, kwargs):
                return await function(*args, **kwargs)

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            context = contextvars.copy_context()  # the consumer's has no part in it
            run = context.run(calls.begin, args, kwargs)
            ended: BaseException | None = None
            try:
                return (yield from _in_context(context, function(*args, **kwargs)))
            except BaseException as error:
                ended = error
                raise
            finally:
                context.run(run.__exit__, None if ended is None else type(ended), ended, None)
                ended = None  # it holds this frame, and all that is in it

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with calls.begin(args, kwargs):
                return function(*args, **kwargs)

    return wrapper


class _Calls:
    """Begins the runs of a function's calls."""

    def __init__(self, function: Any, params: bool, nested: bool | None, settings: Mapping[str, Any]) -> None:
        self._params = params
        self._nested = nested
        self._settings = settings
        self._name = getattr(function, "__name__", None) or type(getattr(function, "func", function)).__name__
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # some of C
            self._signature = None

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Experiment:
        """The run of a call."""
        nested = interface.call_is_nested() if self._nested is None else self._nested
        settings = dict(self._settings)
        if "exp_name" not in settings and (nested or not _is_named(settings.get("settings"))):
            settings["exp_name"] = self._name
        run = interface.start_logging(**settings, nested=nested)
        if self._params and self._signature is not None:
            with _ARGUMENTS:
                if given := parameters(self._signature, args, kwargs, self._name):
                    run.log_params(given)
        return run


def _is_named(settings: Any) -> bool:
    """Whether the user has a name for the run: in a variable, or among the settings."""
    if settings is not None:
        return bool(getattr(settings, "run_name", None))
    name = os.environ.get("TRACELET_RUN_NAME")
    return bool(name) and ("TRACELET_RUN_ID" not in os.environ or "TRACELET_RUN_NAME_GIVEN" in os.environ)


def _in_context(context: contextvars.Context, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same values, each of them made in a context."""
    step: Callable[[], Any] = functools.partial(next, generator)
    while True:
        try:
            value = context.run(step)
        except StopIteration as end:
            return end.value
        try:
            step = functools.partial(generator.send, (yield value))
        except GeneratorExit:
            context.run(generator.close)
            raise
        except BaseException as error:
            step = functools.partial(generator.throw, error)
