"""A tracker that is slower than a run: how it is told to people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["falling_behind"]

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


def falling_behind(backend: wire.BackendState) -> str:
    """Where a run's backend is heading; empty when it keeps up, or is down: there is an error for that.

    Args:
        backend: as the collector tells it.
    """
    if backend.state != "ok" or not backend.catch_up_seconds:
        return ""
    told = f"falling behind: {backend.lag_points:,} points"
    if math.isfinite(backend.catch_up_seconds):
        return f"{told}, about {_duration(backend.catch_up_seconds)} at the present rate"
    if backend.makes_per_second:
        return (
            f"{told}, and the distance grows: the tracker takes {backend.takes_per_second:,.0f} points/s, "
            f"the run makes {backend.makes_per_second:,.0f}"
        )
    return f"{told}, of which it has taken none of late"


def _duration(seconds: float) -> str:
    if seconds < 1.5 * _MINUTE:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} days"
