"""One call by which a library hands values to several trackers: each value is recorded once, also when a tracker fails.

A scope is open around the call (see `once`). What a tracker's SummaryWriter writes arrives as any SummaryWriter's points do,
with its labels, and the rest is recorded afterwards. Where no tracker has a SummaryWriter, all is recorded before the call: so
the names are the library's, whatever SummaryWriters of the script's own write meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tracelet.core import contents
from tracelet.core.metrics import MetricType
from tracelet.frameworks import once
from tracelet.frameworks.numbers import flat, numbers
from tracelet.frameworks.once import Scope
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Handed", "handing", "record"]


class Handed(NamedTuple):
    """What a call hands over.

    Attributes:
        run: whose it is.
        values: by name, a mapping that nobody changes meanwhile.
        step: of all of them; None counts them.
        writers: the trackers' SummaryWriters; None for one that is made when its tracker gets the values.
    """

    run: Experiment
    values: Mapping[str, Any]
    step: int | None
    writers: Callable[[], Iterable[Any]]


def handing(what: str, given: Callable[..., Handed | None]) -> Callable[[Switch], Wrapper]:
    """A wrapper that records what a call hands over.

    Args:
        what: the call, as the line on stderr names it when recording fails.
        given: says it, by the call's instance and arguments, before the call; None where nothing is recorded.
    """

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            handed = None
            scope = Scope()
            if switch.on:
                try:
                    handed = given(instance, *args, **kwargs)
                    if handed is not None and not list(handed.writers()):
                        record(handed, scope)
                except Exception as error:
                    swallow(what, error)
            if handed is None:
                return wrapped(*args, **kwargs)
            token = once.enter(scope)
            try:
                return wrapped(*args, **kwargs)
            finally:
                once.leave(token)
                try:
                    if list(handed.writers()):
                        record(handed, scope)
                except Exception as error:
                    swallow(what, error)

        return wrapper

    return build


def record(handed: Handed, scope: Scope) -> None:
    """Record what no SummaryWriter wrote: numbers, and texts where there is no SummaryWriter to write them."""
    run, values, step, _ = handed
    folder = _log_dir(handed.writers())
    for name, value in flat(numbers(values)):
        if not scope.wrote_it(name, value, step):
            run.record(name, value, step, None, folder)
            scope.recorded(name, value, step)
    for name, value in values.items():
        if isinstance(value, str) and not folder:
            run.record_media(name, MetricType.TEXT, contents.text(value), step, None)


def _log_dir(writers: Iterable[Any]) -> str:
    """The folder of the first SummaryWriter that is captured, so that all share their names; empty for none."""
    for writer in writers:
        if (known := getattr(writer, "__dict__", {}).get("_tracelet")) is not None:
            return str(known.log_dir)
    return ""
