"""A local collector that is older than this process: it is asked to finish and exit, and one of this version takes its place.

Only ever that way round: an older process is served by a newer collector, or refused in words. So two versions on one machine
do not take turns in throwing each other out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import local
from tracelet.transport.channel import collector_stub, open_channel
from tracelet.transport.local import AS_IT_IS, Endpoint, Starting
from tracelet.version import __version__

__all__ = ["current", "is_older"]

_PATIENCE: Final = 20.0  # it may finish a batch that a tracker is slow to take
_MOST: Final = 3  # replacements by one process: should what it starts be older again, there is no end to it
_STAGES: Final = {"dev": -4, "a": -3, "b": -2, "rc": -1, "": 0, "post": 1}
_VERSION: Final = re.compile(r"(\d+(?:\.\d+)*)\.?-?(dev|a|b|rc|post)?(\d*)")
_asked: list[int] = []


def current(home: Path, deadline: float, starting: Starting = AS_IT_IS) -> Endpoint:
    """The collector of a home, started when there is none, and exchanged when it is older than this process.

    What the older one has not delivered is in the log, where the new one goes on; its writers find the new one by themselves.

    Args:
        home: tracelet's home.
        deadline: seconds for one to start.
        starting: how one is to be that is started here.

    Raises:
        CollectorError: none came up in time; or the older one stays, and cannot serve this process.
    """
    endpoint = local.ensure(home, deadline, starting)
    if not is_older(endpoint) or endpoint.pid in _asked or len(_asked) >= _MOST:
        return endpoint
    _asked.append(endpoint.pid)
    try:
        return local.take_over(home, endpoint, lambda: _ask_to_leave(endpoint), deadline + _PATIENCE, starting)
    except CollectorError:
        if endpoint.wire < (codec.WIRE_MAJOR, codec.WIRE_MINOR):
            _asked.remove(endpoint.pid)  # there is no way without it: again, later
            raise
        return local.ensure(home, deadline, starting)


def is_older(endpoint: Endpoint) -> bool:
    """Whether a collector is older than this process: by its wire, else by its version."""
    theirs, ours = endpoint.wire, (codec.WIRE_MAJOR, codec.WIRE_MINOR)
    return theirs < ours or (theirs == ours and _rank(endpoint.version) < _rank(__version__))


def _rank(version: str) -> tuple[tuple[int, ...], int, int]:
    """What orders versions: numbers, then dev < a < b < rc < the release < post. What is no version comes first."""
    found = _VERSION.match(version)
    if found is None:
        return (), 0, 0
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _STAGES[found[2] or ""], int(found[3] or 0)


def _ask_to_leave(endpoint: Endpoint) -> None:
    import grpc

    channel = open_channel(endpoint.address)
    try:
        # No time to deliver: the next one goes on with that, and until it is there nobody's records become durable.
        collector_stub(channel).Stop(wire.StopRequest(drain_seconds=0.0), timeout=5.0)
    except grpc.RpcError as error:
        raise CollectorError(
            f"the collector (pid {endpoint.pid}, version {endpoint.version}) is older than this process, and does not answer: "
            f"{error.details()}"
        ) from error
    finally:
        channel.close()
