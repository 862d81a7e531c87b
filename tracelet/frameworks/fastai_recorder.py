"""What a Recorder has: losses and hyper-parameters of each training batch, losses and metrics of each epoch.

The Recorder is fastai's own, and is there unless somebody took it away. Its methods are listened to on the class: no callback
is added to a Learner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tracelet.frameworks.fastai_fits import tell_of
from tracelet.frameworks.fastai_learner import Learning
from tracelet.frameworks.numbers import flat, numbers
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper, after

if TYPE_CHECKING:
    from tracelet.frameworks.fastai import FastaiFramework

__all__ = ["places"]

Library = type["FastaiFramework"]


def places(library: Library) -> list[Place]:
    """Where it is seen."""

    def begins(recorder: Any) -> None:
        if (framework := library.here()) is not None:
            framework.learning(recorder.learn).begins(recorder.learn)

    def trained(recorder: Any) -> None:
        learner = recorder.learn
        if not learner.training or not len(learner.yb) or (framework := library.here()) is None:
            return
        learning = framework.learning(learner)
        if learning.data is None and learning.is_fitting(learner):
            values = {"train_loss": recorder.losses[-1], "raw_loss": _mean(learner.loss)}
            _record(framework, learning, learner, {**values, **_hypers(learning, learner)})

    def ended(recorder: Any) -> None:
        framework = library.here()
        learning = None if framework is None else framework.learning(recorder.learn)
        if framework is None or learning is None or learning.data is not None or not learning.recorded:
            return
        if learning.is_fitting(recorder.learn):
            _record(framework, learning, recorder.learn, {"epoch": recorder.log[0]})
            learning.recorded = False

    return [
        Place("", "Recorder", "before_fit", after("seeing a fit begin", begins)),
        Place("", "Recorder", "after_batch", after("recording a batch", trained)),
        Place("", "Recorder", "after_train", _adding(library, _trained_names)),
        Place("", "Recorder", "after_validate", _adding(library, _validated_names)),
        Place("", "Recorder", "after_epoch", after("recording an epoch", ended)),
    ]


def _adding(library: Library, names: Callable[[Any], Iterable[str | None]]) -> Callable[[Switch], Wrapper]:
    """Around what puts numbers into the Recorder's line of an epoch. They are taken from there: nobody measures twice."""

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], recorder: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            before = len(vars(recorder).get("log", ())) if switch.on else 0
            result = wrapped(*args, **kwargs)
            if switch.on:
                try:
                    _measured(library, recorder, list(recorder.log)[before:], names)
                except Exception as error:
                    swallow("recording what a Recorder has measured", error)
            return result

        return wrapper

    return build


def _measured(library: Library, recorder: Any, values: list[Any], names: Callable[[Any], Iterable[str | None]]) -> None:
    learner, framework = recorder.learn, library.here()
    if framework is None or not values:
        return
    learning = framework.learning(learner)
    if "gather_preds" in vars(learner) or not (learning.data is not None or learning.is_fitting(learner)):
        return
    named: dict[str, Any] = {}
    for name, value in zip(names(recorder), values, strict=False):
        if name is not None:
            named[_free(name, named)] = value
    _record(framework, learning, learner, named, learning.data or "")


def _split(recorder: Any) -> tuple[list[str], list[str]]:
    """The names of a line: of what comes from training, and from validation."""
    names = list(recorder.metric_names)[1:]
    if recorder.add_time:
        names = names[:-1]
    training = 1 + (len(recorder.metrics) if recorder.train_metrics else 0)
    return names[:training], names[training:]


def _trained_names(recorder: Any) -> Iterator[str | None]:
    yield None  # the smoothed loss of the last batch, which is there already
    yield from _split(recorder)[0][1:]


def _validated_names(recorder: Any) -> Iterable[str]:
    return _split(recorder)[1]


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """A name that no other metric of the same line has: two that are made of one function have its name."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _hypers(learning: Learning, learner: Any) -> dict[str, float]:
    """Learning rates, as the Recorder keeps them, and what else has changed; all of them at first."""
    groups = learner.opt.hypers
    now = {
        f"{name}_{group}": value
        for group, hypers in enumerate(groups)
        for name, value in hypers.items()
        if not isinstance(value, bool)
    }
    found = dict(flat(numbers(now)))
    rates = {f"lr_{group}" for group in range(len(groups))}
    new = {name: value for name, value in found.items() if name in rates or learning.hypers.get(name) != value}
    learning.hypers = found
    return new


def _record(
    framework: FastaiFramework, learning: Learning, learner: Any, values: Mapping[str, Any], behind: str = ""
) -> None:
    run = framework.experiment
    if run is None:
        return
    if not learning.told:
        tell_of(framework, learning, learner)
    step = learning.step(learner)
    for name, value in flat(numbers(values)):
        learning.names.add(name)
        run.record(f"{learning.prefix}{name}{behind}", value, step, None)
    learning.recorded = True


def _mean(loss: Any) -> Any:
    """A batch's loss, as the Recorder takes it: one that is not reduced by its mean."""
    return loss.detach().mean() if loss.numel() != 1 else loss
