"""What Lightning logs: each value once, with the step that the loggers were given.

All that `self.log` logs goes through one method of Lightning's, which hands it to the Trainer's loggers. A scope is open around
that (see `once`): what a TensorBoardLogger writes arrives as any SummaryWriter's points do, with its labels, and the rest is
recorded when all loggers have had it. Without a logger, it is recorded with the step that a logger would have been given.

A logger's `log_metrics` that the script calls by itself is recorded too. It is patched on the class that has it, when a Trainer
meets such a logger.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracelet.frameworks import once
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.lightning_params import INTERNAL
from tracelet.frameworks.numbers import flat, numbers, record_all
from tracelet.frameworks.once import Scope
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper, after

__all__ = ["OWN", "flat", "log_dir_beside", "meet", "meet_class", "meet_loggers_of", "numbers", "places", "record_all"]

Library = type[LightningBase]

_CONNECTOR: Final = ".trainer.connectors.logger_connector.logger_connector"
_RECORDING: Final = "recording what Lightning logs"
OWN: Final = "tracelet_logger"  # an attribute of our own loggers


def places(library: Library) -> list[Place]:
    """Where values are seen."""
    return [Place(_CONNECTOR, "_LoggerConnector", "log_metrics", _connector(library))]


def meet(library: Library, trainer: Any) -> None:
    """Know the loggers of a Trainer, and see what they are given."""
    known = [reference() for reference in library.beside]
    if not all(any(logger is each for each in known) for logger in trainer.loggers):
        # What they are given is none of what another Trainer's were.
        if (framework := library.of_run()) is not None:
            framework.recent = once.Recent()
        library.beside = tuple(weakref.ref(logger) for logger in trainer.loggers if hasattr(logger, "__weakref__"))
    for logger in trainer.loggers:
        meet_class(library, type(logger))


def meet_loggers_of(library: Library) -> None:
    """See what Lightning's own loggers are given, from the start."""
    loggers = sys.modules.get(f"{library.module}.loggers")
    for name in getattr(loggers, "__all__", ()):
        kind = getattr(loggers, name, None)
        if isinstance(kind, type) and name != "Logger":
            meet_class(library, kind)


def meet_class(library: Library, kind: type) -> None:
    """See what loggers of a class are given."""
    if kind in library.met:
        return
    library.met.add(kind)
    if _is_dummy(kind) or hasattr(kind, OWN):
        return
    for name, build in (("log_metrics", _logger), ("log_hyperparams", _hyperparameters)):
        owner = next((base for base in kind.__mro__ if name in base.__dict__), None)
        if owner is not None and not getattr(owner.__dict__[name], "__isabstractmethod__", False):
            library.patch_method(owner, name, build(library))


def _framework(library: Library, trainer: Any) -> LightningBase | None:
    """The framework that records what a Trainer logs; None for none."""
    framework = library.capturing()
    if framework is not None:
        for logger in trainer.loggers:
            if type(logger) not in library.met:
                meet_class(library, type(logger))
    elif library.explicit and any(hasattr(type(logger), OWN) for logger in trainer.loggers):
        return library.of_run()
    return framework


def _connector(library: Library) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            framework = None
            if switch.on:
                try:
                    framework = _framework(library, instance.trainer)
                except Exception as error:
                    swallow(_RECORDING, error)
            if framework is None:
                return wrapped(*args, **kwargs)
            scope = Scope()
            token = once.enter(scope)
            try:
                result = wrapped(*args, **kwargs)
            finally:
                once.leave(token)
            try:
                _finish(framework, instance.trainer, scope, *args, **kwargs)
            except Exception as error:
                swallow(_RECORDING, error)
            return result

        return wrapper

    return build


def _finish(
    framework: LightningBase, trainer: Any, scope: Scope, metrics: Mapping[str, Any], step: int | None = None
) -> None:
    """Record what no SummaryWriter has written."""
    run = framework.experiment
    if run is None or not metrics:
        return
    if scope.given is not None:
        values, step = scope.given, scope.step
    elif _only_dummies(trainer.loggers):
        return
    else:
        values, step = _as_for_loggers(trainer, metrics, step)
    values = {name: value for name, value in values.items() if name not in scope.covered}
    if values:
        at = None if step is None else int(step)
        record_all(run, values, at, scope.bare_prefix or "", _log_dir(trainer.loggers), scope.covered)


def _as_for_loggers(trainer: Any, metrics: Mapping[str, Any], step: int | None) -> tuple[Mapping[str, Any], int | None]:
    """What a logger would have been given, and the step: Lightning makes that only when there are loggers."""
    values = numbers(metrics)
    if step is None:
        if (named := values.pop("step", None)) is not None:
            step = int(named)
        else:
            values.setdefault("epoch", trainer.current_epoch)
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return values, step


def _only_dummies(loggers: list[Any]) -> bool:
    """Whether Lightning has put its dummies in the loggers' place: it only tries something out."""
    return bool(loggers) and all(_is_dummy(type(logger)) for logger in loggers)


def _is_dummy(kind: type) -> bool:
    """Whether a class is Lightning's dummy, and not one of the script's that is called the same."""
    return kind.__name__ == "DummyLogger" and kind.__module__.startswith(("lightning.", "pytorch_lightning."))


def _logger(library: Library) -> Callable[[Switch], Wrapper]:
    """Around a logger's `log_metrics`."""

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            scope, token, framework = once.here(), None, None
            # A logger that calls another one, or its own base class: the outermost has said it.
            within = scope is not None and scope.logger is not None
            if switch.on and not within:
                try:
                    framework = library.capturing()
                except Exception as error:
                    swallow(_RECORDING, error)
            if framework is None:
                return wrapped(*args, **kwargs)
            if scope is None:
                scope = Scope(framework.recent)
                token = once.enter(scope)
            given = None
            try:
                scope.begin(instance, _prefix(instance))
                given = _kept(*args, **kwargs)
            except Exception as error:
                swallow(_RECORDING, error)
            try:
                result = wrapped(*args, **kwargs)
            finally:
                logger, scope.logger = scope.logger, None
                if token is not None:
                    once.leave(token)
            try:
                if given is not None:
                    _given(framework, scope, logger, *given)
            except Exception as error:
                swallow(_RECORDING, error)
            return result

        return wrapper

    return build


def _kept(metrics: Any = None, step: Any = None, *_: Any, **__: Any) -> tuple[Any, Any]:
    """What a logger is given, as it is before: it may take out of the mapping what it does not want."""
    return (dict(metrics) if isinstance(metrics, Mapping) else metrics), step


def _given(framework: LightningBase, scope: Scope, logger: Any, metrics: Any, step: Any) -> None:
    """A logger has got something: remember it for the scope, or record it, when the script gave it."""
    recent, run = scope.recent, framework.experiment
    if recent is None:
        scope.end(metrics, step)
    elif not scope.wrote and run is not None and isinstance(metrics, Mapping):
        at = None if step is None else int(step)
        new = {name: value for name, value in flat(numbers(metrics)) if recent.takes(logger, name, value, at)}
        record_all(run, new, at, scope.prefix, log_dir_beside(framework, logger))


def log_dir_beside(framework: LightningBase, logger: Any) -> str:
    """The folder of a logger's SummaryWriter, or of one that a Trainer has beside it; empty for none."""
    loggers = [reference() for reference in framework.beside]
    return _log_dir([logger, *loggers] if any(logger is each for each in loggers) else [logger])


def _prefix(logger: Any) -> str:
    """What a logger of Lightning's puts before each name."""
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{getattr(logger, 'LOGGER_JOIN_CHAR', '-')}" if isinstance(prefix, str) and prefix else ""


def _log_dir(loggers: list[Any]) -> str:
    """The folder of the first logger that has a SummaryWriter which is captured; empty for none."""
    for logger in loggers:
        # Not `experiment`, which makes one.
        known = getattr(getattr(logger, "__dict__", {}).get("_experiment"), "__dict__", {}).get("_tracelet")
        if known is not None:
            return str(known.log_dir)
    return ""


def _hyperparameters(library: Library) -> Callable[[Switch], Wrapper]:
    def record(logger: Any, params: Any = None, *_: Any, **__: Any) -> None:
        if (framework := library.capturing()) is not None:
            record_parameters(framework, params, INTERNAL)

    return after("recording hyperparameters", record)
