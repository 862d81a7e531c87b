"""How things stand in a home: asked from its collector, or read from its log when none answers."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracelet.errors import CollectorError
from tracelet.transport import local

if TYPE_CHECKING:
    from tracelet.proto.v1 import collector_pb2 as wire

__all__ = ["Standing", "ask", "find_patiently"]

_PATIENCE: Final = (
    2.0  # one that was just started has announced itself by then, and one whose announcement was lost, again
)
_POLL: Final = 0.05


@dataclass(frozen=True)
class Standing:
    """What is known.

    Attributes:
        reply: the collector's own words, or what its log has.
        unfound: the process that serves the home and cannot be found; 0 when it does not say which; None when there is none.
    """

    reply: wire.StatusReply
    unfound: int | None = None


def ask(home: Path) -> Standing:
    """Ask the collector of a home; when none can be found, read the log.

    Raises:
        CollectorError: the collector does not answer, or the log cannot be read.
    """
    from tracelet.transport.watch import status

    endpoint, unfound = find_patiently(home)
    if endpoint is not None:
        try:
            return Standing(status(endpoint.address))
        except CollectorError:
            if local.find(home) is not None:
                raise
    # The collector's own reading of its log, by name: nothing else on this side knows the collector's insides.
    offline = importlib.import_module("tracelet_collector.status")
    failed = importlib.import_module("tracelet_collector.log.base").LogFailed
    try:
        return Standing(offline.read_offline(home), unfound)
    except failed as error:
        raise CollectorError(str(error)) from error


def find_patiently(home: Path) -> tuple[local.Endpoint | None, int | None]:
    """The collector of a home; one that serves it without an announcement is given a moment to announce itself.

    Returns:
        The collector; else the process that serves the home all the same, as `local.holder` tells it.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        if (endpoint := local.find(home)) is not None:
            return endpoint, None
        if (pid := local.holder(home)) is None or time.monotonic() >= until:
            return None, pid
        time.sleep(_POLL)
