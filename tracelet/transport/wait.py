"""Waits until a run, or everything, is delivered; and asks collectors how things stand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tracelet.errors import CollectorError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import local
from tracelet.transport.channel import collector_stub, open_channel

__all__ = ["missing", "status", "wait_delivered"]

_POLL: Final = 0.1
_PATIENCE: Final = 10.0


def status(address: str, run_id: str = "", timeout: float = 5.0) -> wire.StatusReply:
    """Ask a collector.

    Raises:
        CollectorError: it did not answer.
    """
    import grpc

    channel = open_channel(address)
    try:
        reply: wire.StatusReply = collector_stub(channel).Status(
            wire.StatusRequest(run_id=run_id), timeout=timeout, wait_for_ready=True
        )
    except grpc.RpcError as error:
        raise CollectorError(f"the collector at {address} did not answer: {error.details()}") from error
    finally:
        channel.close()
    return reply


def missing(reply: wire.StatusReply) -> str:
    """What is not delivered yet, in words; empty when nothing is."""
    parts = []
    if reply.pending_spools:
        parts.append(f"{reply.pending_spools} spools are not read in yet")
    for run in reply.runs:
        for backend in run.backends:
            if not backend.settled:
                trouble = f", {backend.state}: {backend.last_error}" if backend.last_error else ""
                parts.append(
                    f"{run.name} ({run.run_id[:8]}) lacks {backend.lag_points} points in {backend.kind}{trouble}"
                )
    return "; ".join(parts)


def wait_delivered(
    home: Path,
    run_id: str = "",
    timeout: float | None = None,
    progress: Callable[[wire.StatusReply], None] | None = None,
) -> str:
    """Wait until everything that was recorded is delivered everywhere; a collector is started when there is none.

    Args:
        home: tracelet's home.
        run_id: one run; by default all.
        timeout: seconds; None waits for ever.
        progress: called with each answer.

    Returns:
        What is missing when the time is over; empty when nothing is.

    Raises:
        CollectorError: no collector could be started.
    """
    until = time.monotonic() + timeout if timeout is not None else float("inf")
    lacking = "no collector has answered yet"
    while True:
        patience = min(_PATIENCE, max(until - time.monotonic(), 1.0))
        endpoint = None
        try:
            endpoint = local.ensure(home, patience)
            reply = status(endpoint.address, run_id, patience)
        except CollectorError as error:
            lacking = str(error)
            if timeout is None and endpoint is None:
                raise
        else:
            if progress is not None:
                progress(reply)
            lacking = missing(reply)
            if not lacking:
                return ""
        if time.monotonic() >= until:
            return lacking
        time.sleep(_POLL)
