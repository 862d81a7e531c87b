"""The client's side of gRPC: imported late, and kept from disturbing a process that forks."""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["CHANNEL_OPTIONS", "collector_stub", "open_channel"]

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A collector that was replaced listens on the same path: never share a connection with an older channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
# gRPC's fork support, when it is on, prints to stderr at each fork, or stalls it. Our forked children use no gRPC at all.
_WHILE_IMPORTING: Final = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}


def _import_quietly() -> None:
    """Import gRPC, which reads its variables then and never again; what the user set stays.

    Not by `os.environ`: another thread may be copying that, and would meet a name that is gone.
    """
    ours = [name for name in _WHILE_IMPORTING if name not in os.environ]
    for name in ours:
        os.putenv(name, _WHILE_IMPORTING[name])
    try:
        import grpc  # noqa: F401
    finally:
        for name in ours:
            os.unsetenv(name)


_import_quietly()


def open_channel(address: str) -> Any:
    """A channel to a collector."""
    import grpc

    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)


def collector_stub(channel: Any) -> Any:
    """The collector's methods on a channel."""
    from tracelet.proto.v1.collector_pb2_grpc import CollectorStub  # imports gRPC, so not before us

    return CollectorStub(channel)
