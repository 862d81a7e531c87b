"""A Learner's fits: which are trainings and which only try something out, and what they and the Learner were told.

A search for a learning rate trains, and is no training: nothing of it is recorded, neither what the Recorder has nor what
SummaryWriters and optimizers do meanwhile.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tracelet.core import active
from tracelet.frameworks.fastai_learner import Learning
from tracelet.frameworks.parameters import described, record_parameters
from tracelet.frameworks.places import Place
from tracelet.guard import guard, swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.frameworks.fastai import FastaiFramework

__all__ = ["places", "tell_of"]

Library = type["FastaiFramework"]

_SCHEDULE: Final = "fastai.callback.schedule"
_SCHEDULED: Final = ("fit_one_cycle", "fit_flat_cos", "fit_sgdr", "fine_tune")  # fastai puts them onto Learner there
_MOST: Final = 20  # calls of one method whose arguments are recorded
_STORED: Final = ("loss_func", "opt_func", "lr", "wd", "moms", "train_bn", "wd_bn_bias")


def places(library: Library) -> list[Place]:
    """Where they are seen."""
    return [
        Place("", "Learner", "fit", _fits(library, "fit")),
        Place("", "Learner", "validate", _validates(library)),
        *(Place(_SCHEDULE, "Learner", name, _fits(library, name), later=True) for name in _SCHEDULED),
    ]


def _fits(library: Library, method: str) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(wrapped: Callable[..., Any], learner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            learning: Learning | None = None
            search = False
            if switch.on:
                try:
                    if (framework := library.here()) is not None:
                        search = method == "fit" and _is_search(learner, args, kwargs)
                        learning = framework.learning(learner)
                except Exception as error:
                    swallow("seeing whether fastai only tries something out", error)
            if search:
                with active.muted():
                    return wrapped(*args, **kwargs)
            if learning is None:
                return wrapped(*args, **kwargs)
            with learning.fitting() as outermost:
                if outermost:
                    with guard("recording what a fit was told"):
                        _tell_arguments(library, learning, method, wrapped, args, kwargs)
                return wrapped(*args, **kwargs)

        return wrapper

    return build


def _is_search(learner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a fit is one that looks for a learning rate."""
    finder = getattr(sys.modules.get(_SCHEDULE), "LRFinder", None)
    if finder is None:
        return False
    given = args[3] if len(args) > 3 else kwargs.get("cbs")
    try:
        callbacks = list(given) if given is not None else []
    except TypeError:
        callbacks = [given]
    return any(each is finder or isinstance(each, finder) for each in [*callbacks, *learner.cbs])


def _validates(library: Library) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(wrapped: Callable[..., Any], learner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            learning: Learning | None = None
            data = ""
            if switch.on:
                try:
                    if (framework := library.here()) is not None:
                        data = _data(learner, *args, **kwargs)
                        learning = framework.learning(learner)
                except Exception as error:
                    swallow("seeing what fastai validates", error)
            if learning is None:
                return wrapped(*args, **kwargs)
            with learning.validating(data):
                return wrapped(*args, **kwargs)

        return wrapper

    return build


def _data(learner: Any, ds_idx: Any = 1, dl: Any = None, *_: Any, **__: Any) -> str:
    """What goes behind the names of what is measured: nothing, for the validation set."""
    if dl is None:
        return "" if ds_idx == 1 else f"/ds_{ds_idx}"
    for place, known in enumerate(learner.dls.loaders):
        if known is dl:
            return "" if place == 1 else f"/ds_{place}"
    return "/dl"


def _tell_arguments(
    library: Library,
    learning: Learning,
    method: str,
    bound: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Record what a method that fits is called with. What is wrong with that, it will say itself."""
    framework = library.here()
    number = learning.fits[method] = learning.fits.get(method, 0) + 1
    if framework is None or number > _MOST:
        return
    try:
        given = inspect.signature(bound).bind(*args, **kwargs)
    except TypeError:
        return
    given.apply_defaults()
    called = method if number == 1 else f"{method}_{number}"
    said = {
        f"{learning.prefix}{called}/{n}": in_words(value) for n, value in given.arguments.items() if value is not None
    }
    record_parameters(framework, said)


def tell_of(framework: FastaiFramework, learning: Learning, learner: Any) -> None:
    """Record what a Learner is."""
    learning.told = True
    own, before = vars(learner), learning.prefix or "learner/"
    said: dict[str, Any] = {"model": type(learner.model), "arch": own.get("arch")}
    said |= {name: own.get(name) for name in _STORED}
    said["metrics"] = [metric.name for metric in learner.metrics]
    said["callbacks"] = [type(callback).__name__ for callback in learner.cbs]
    with _perhaps():
        said["parameters"] = sum(parameter.numel() for parameter in learner.model.parameters())
    with _perhaps():
        said["frozen_idx"] = learner.opt.frozen_idx
    with _perhaps():
        train = learner.dls.train
        said["batch_size"] = getattr(train, "bs", None) or getattr(train, "batch_size", None)
        said["device"] = str(next(learner.model.parameters()).device)
        said["batches"] = len(train)
    record_parameters(framework, {f"{before}{name}": in_words(each) for name, each in said.items() if each is not None})


def in_words(value: Any) -> Any:
    """A value as a parameter, with the inside of what is made by `partial`."""
    if isinstance(value, functools.partial):
        given = [*map(in_words, value.args), *(f"{name}={in_words(each)}" for name, each in value.keywords.items())]
        return f"{in_words(value.func)}({', '.join(map(str, given))})"
    return described(value)


@contextmanager
def _perhaps() -> Iterator[None]:
    """A Learner of one's own kind may not have it."""
    try:
        yield
    except (AttributeError, TypeError, StopIteration):
        pass
