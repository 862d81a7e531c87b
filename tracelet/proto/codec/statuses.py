"""A run's status on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tracelet.core.metrics import RunStatus
from tracelet.proto.v1 import records_pb2 as pb

__all__ = ["status_from_wire", "status_to_wire"]

_STATUS_TO_WIRE: Final[Mapping[RunStatus, pb.RunStatus.ValueType]] = {
    RunStatus.RUNNING: pb.RUN_STATUS_RUNNING,
    RunStatus.FINISHED: pb.RUN_STATUS_FINISHED,
    RunStatus.FAILED: pb.RUN_STATUS_FAILED,
    RunStatus.KILLED: pb.RUN_STATUS_KILLED,
}
_STATUS_FROM_WIRE: Final = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


def status_to_wire(status: RunStatus) -> pb.RunStatus.ValueType:
    """The wire's word for a status."""
    return _STATUS_TO_WIRE[status]


def status_from_wire(status: int) -> RunStatus:
    """The status that the wire's word names; an unknown one is *killed*, the careful reading."""
    return _STATUS_FROM_WIRE.get(status, RunStatus.KILLED)  # type: ignore[call-overload, no-any-return]
