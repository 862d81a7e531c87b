"""The client's side of gRPC: imported late, and kept from disturbing a process that forks."""

from __future__ import annotations

import os
from typing import Any, Final

__all__ = ["CHANNEL_OPTIONS", "open_channel"]

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


def open_channel(address: str) -> Any:
    """A channel to a collector.

    gRPC's fork support is off around its first initialisation, unless the user set it: on, it prints to stderr from forked
    children or stalls every fork. Our forked children do not use gRPC at all.
    """
    before = os.environ.get("GRPC_ENABLE_FORK_SUPPORT")
    verbosity = os.environ.get("GRPC_VERBOSITY")
    if before is None:
        os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    if verbosity is None:
        os.environ["GRPC_VERBOSITY"] = "NONE"
    try:
        import grpc

        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    finally:
        if before is None:
            os.environ.pop("GRPC_ENABLE_FORK_SUPPORT", None)
        if verbosity is None:
            os.environ.pop("GRPC_VERBOSITY", None)
