"""A processor that adds moving averages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tracelet.core.metrics import Metric, MetricType
from tracelet.errors import ConfigurationError

__all__ = ["smooth"]

_SUFFIX: Final = "_smoothed"


class smooth:
    """A processor that adds a moving average to a metric: `<name>_smoothed`, at the same step, from the first full window on.

    Points are averaged in the order in which they were logged, each name and each SummaryWriter for itself.

        run.add_processor(tracelet.smooth(5))

    Args:
        window: points of an average.
        names: the metrics; by default all whose type is a loss.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    def __init__(self, window: int, names: str | Iterable[str] | None = None) -> None:
        if not isinstance(window, int) or isinstance(window, bool) or window < 1:
            raise ConfigurationError(f"window={window!r} makes no sense; give a number of points, 1 or more")
        self._names = None if names is None else _names(names)
        self._window = window
        self._last: dict[str, deque[float]] = {}

    def __call__(self, point: Metric) -> list[Metric]:
        """The point, and the average."""
        if not self._wants(point):
            return [point]
        last = self._last.setdefault(point.name, deque(maxlen=self._window))
        last.append(point.value)
        if len(last) < self._window:
            return [point]
        return [point, replace(point, name=point.name + _SUFFIX, value=_mean(last))]

    def _wants(self, point: Metric) -> bool:
        if self._names is not None:
            return point.name in self._names
        return point.type == MetricType.LOSS.value and not point.name.endswith(_SUFFIX)


def _names(given: object) -> frozenset[str]:
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"names={given!r:.80} makes no sense; give a metric's name, or several")
    return frozenset(names)


def _mean(values: deque[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):  # a sum beyond all floats; infinities of both signs
        return sum(value / len(values) for value in values)
