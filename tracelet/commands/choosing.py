"""The run that somebody means: by id, the start of one, or name."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tracelet.errors import ConfigurationError

if TYPE_CHECKING:
    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["choose_run"]

_SHORTEST_PREFIX: Final = 4
_SHOWN: Final = 5


def choose_run(runs: Iterable[wire.RunState], wanted: str) -> wire.RunState:
    """The one run that is meant.

    Raises:
        ConfigurationError: there is none, or several.
    """
    known = list(runs)
    starts = [run for run in known if run.run_id.startswith(wanted)] if len(wanted) >= _SHORTEST_PREFIX else []
    for found in ([run for run in known if run.run_id == wanted], [run for run in known if run.name == wanted], starts):
        if len(found) == 1:
            return found[0]
        if found:
            newest = sorted(found, key=lambda run: run.created, reverse=True)
            ids = ", ".join(f"{run.run_id} ({_when(run)})" for run in newest[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ConfigurationError(f"{len(found)} runs are called {wanted!r}: say which by its id: {ids}{more}")
    raise ConfigurationError(
        f"{wanted!r} is neither a run's id or name nor the start of one id; `tracelet runs` lists the runs"
    )


def _when(run: wire.RunState) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))
