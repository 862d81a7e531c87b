"""When something may be told about a run: as soon as it has a stream, and for the last time before its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Occasions"]


class Occasions:
    """The two occasions of a run, in the process that began it.

    Args:
        run: the run.
    """

    def __init__(self, run: Experiment) -> None:
        self._run = run
        self._at_begin: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []

    def when_begun(self, call: Callable[[], None]) -> None:
        """Call a function once the run has a stream: now, if it has; else in the middle of what records first, so be short."""
        if self._run.begun:
            _call([call])
        else:
            self._at_begin.append(call)

    def before_end(self, call: Callable[[], None]) -> None:
        """Call a function when the run is about to end and still records. The script waits for it."""
        self._at_end.append(call)

    def begun(self) -> None:
        """The run has a stream."""
        calls, self._at_begin = self._at_begin, []
        _call(calls)

    def ending(self) -> None:
        """The run is about to end."""
        calls, self._at_end = self._at_end, []
        _call(calls)

    def forget(self) -> None:
        """Nothing of it is this process's affair: it was forked."""
        self._at_begin, self._at_end = [], []


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        try:
            call()
        except Exception as error:
            swallow("telling more about the run", error)
