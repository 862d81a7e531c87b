"""A local collector of an older wire version: it is asked to finish and exit, so that one of this version takes its place."""

from __future__ import annotations

from typing import Final

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport.channel import collector_stub, open_channel
from tracelet.transport.local import Endpoint

__all__ = ["make_way"]

_DRAIN: Final = 10.0
_asked: dict[int, None] = {}


def make_way(endpoint: Endpoint) -> bool:
    """Ask a collector to exit, if it is older than this process. One of them, once: what is started next is ours.

    Returns:
        Whether it is on its way out, so that coming back makes sense.
    """
    if endpoint.wire >= (codec.WIRE_MAJOR, codec.WIRE_MINOR):
        return False
    if endpoint.pid in _asked:
        return True
    if _asked:
        return False  # another one, and older again: whatever is started here is not of this version
    import grpc

    channel = open_channel(endpoint.address)
    try:
        collector_stub(channel).Stop(wire.StopRequest(drain_seconds=_DRAIN), timeout=5.0)
    except grpc.RpcError:
        return False
    finally:
        channel.close()
    _asked[endpoint.pid] = None
    return True
