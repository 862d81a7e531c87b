"""Asks the home's collector to do something; one is started when none runs, and one that is older is exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tracelet.core.options import Options
from tracelet.errors import CollectorError, ConfigurationError
from tracelet.transport import outdated
from tracelet.transport.channel import collector_stub, open_channel
from tracelet.transport.local import Starting

__all__ = ["call", "call_at", "starting"]

_START_DEADLINE: Final = 10.0
_ANSWER: Final = 120.0  # a million letters take a while
_NOT_LIKE_THIS: Final = ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION")


def call(home: Path, method: str, request: Any) -> Any:
    """The answer of a method.

    Args:
        home: tracelet's home.
        method: its name in the service.
        request: for it.

    Raises:
        ConfigurationError: it cannot be done as it was asked.
        CollectorError: no collector could be started, or it did not answer.
    """
    return call_at(outdated.current(home, _START_DEADLINE, starting(Options.load())).address, method, request)


def starting(options: Options) -> Starting:
    """How a collector is to be that a command starts."""
    return Starting(options.collector_idle, options.retention_days, options.retention_bytes)


def call_at(address: str, method: str, request: Any) -> Any:
    """The same, of a collector that runs.

    Raises:
        ConfigurationError, CollectorError: as `call`.
    """
    import grpc

    channel = open_channel(address)
    try:
        return getattr(collector_stub(channel), method)(request, timeout=_ANSWER, wait_for_ready=True)
    except grpc.RpcError as error:
        code = error.code().name
        if code in _NOT_LIKE_THIS:
            raise ConfigurationError(error.details()) from error
        if code == "UNIMPLEMENTED":
            raise CollectorError(
                "the collector is older than this tracelet, and cannot do that: `tracelet stop` ends it; the next one can"
            ) from error
        raise CollectorError(f"the collector at {address} did not answer: {error.details()}") from error
    finally:
        channel.close()
