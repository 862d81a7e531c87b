"""How delivering one run to one backend goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.backoff import Backoff
from tracelet_collector.log.base import slot_of

__all__ = ["Course", "Live", "State"]

State = Literal["ok", "retrying", "paused"]


@dataclass(frozen=True, slots=True)
class Live:
    """What `tracelet status` shows of a run's backend.

    Attributes:
        state: `retrying` heals by itself, `paused` needs what `last_error` says.
        last_error: empty when all is well.
        worker_pid: 0 when no worker runs.
    """

    state: State
    last_error: str
    worker_pid: int


@dataclass(slots=True, eq=False)
class Course:
    """A run on its way to a backend.

    Attributes:
        run, backend: as the log has them.
        backoff: when to try again.
        state, last_error: see `Live`.
        queued: it waits for its turn, or has it.
        woken: there may be more than was read.
        deaths: workers in a row that failed over the same chunk.
        rewinds: in a row, with nothing delivered between.
        redriven: places of the dead letters that the chunk under way tries again; empty when it is another one.
    """

    run: wire.RunSpec
    backend: wire.BackendSpec
    backoff: Backoff
    state: State = "ok"
    last_error: str = ""
    queued: bool = False
    woken: bool = False
    deaths: int = 0
    rewinds: int = 0
    redriven: Sequence[tuple[int, int]] = ()

    @property
    def slot(self) -> str:
        """What the run calls the backend."""
        return slot_of(self.backend)

    def went_well(self) -> None:
        """A chunk was delivered and committed, or there was none."""
        self.backoff.succeeded()
        self.state, self.last_error, self.deaths = "ok", "", 0
