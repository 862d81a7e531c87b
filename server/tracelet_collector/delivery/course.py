"""How delivering one run to one backend goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.delivery.backoff import Backoff
from tracelet_collector.delivery.pace import AT_PACE, Outlook
from tracelet_collector.delivery.process import Shipment
from tracelet_collector.delivery.suspicion import Suspicion, Try, cut
from tracelet_collector.log.base import Chunk, slot_of

__all__ = ["SET_ASIDE", "Course", "Live", "State"]

SET_ASIDE: Final = "set aside: "  # how the dead letters of records begin that are not delivered any more

State = Literal["ok", "retrying", "paused"]


@dataclass(frozen=True, slots=True)
class Live:
    """What `tracelet status` shows of a run's backend.

    Attributes:
        state: `retrying` heals by itself, `paused` needs what `last_error` says.
        last_error: empty when all is well.
        worker_pid: 0 when no worker runs.
        outlook: whether it catches up.
    """

    state: State
    last_error: str
    worker_pid: int
    outlook: Outlook = AT_PACE


@dataclass(slots=True, eq=False)
class Course:
    """A run on its way to a backend.

    Attributes:
        run, backend: as the log has them.
        backoff: when to try again.
        state, last_error: see `Live`.
        queued: it waits for its turn, or has it.
        woken: there may be more than was read.
        behind: the log had more than its last chunk.
        rewinds: in a row, with nothing delivered between.
        refused: names of credentials that the tracker did not take since it last took some.
        suspicion: of records that were the end of workers.
        how: the last worker that failed did.
        deaths: workers in a row that failed over dead letters that are tried again.
        redriven: dead letters of which its last chunk was made.
        aside: records that are not delivered any more, by lsn and position, and why.
    """

    run: wire.RunSpec
    backend: wire.BackendSpec
    backoff: Backoff
    state: State = "ok"
    last_error: str = ""
    queued: bool = False
    woken: bool = False
    behind: bool = False
    rewinds: int = 0
    refused: set[str] = field(default_factory=set)
    suspicion: Suspicion | None = None
    how: str = ""
    deaths: int = 0
    redriven: Sequence[tuple[int, int]] = ()
    aside: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def slot(self) -> str:
        """What the run calls the backend."""
        return slot_of(self.backend)

    @property
    def place(self) -> tuple[str, str]:
        """The run's id and its slot."""
        return self.run.run_id, slot_of(self.backend)

    def went_well(self) -> None:
        """A chunk was delivered and committed, or there was none."""
        self.backoff.succeeded()
        self.state, self.last_error = "ok", ""
        self.rewinds = self.deaths = 0
        self.refused.clear()

    def ship(self, chunk: Chunk, filters: bool) -> Shipment:
        """What is done with a chunk.

        Args:
            chunk: what the log has.
            filters: the worker takes a part of a chunk.
        """
        done = Try() if self.suspicion is None or chunk.only else self.suspicion.plan(chunk, filters)
        chunk = cut(chunk, done.until)
        return Shipment(self.run, self.backend, chunk, done, self._left_out(chunk))

    def _left_out(self, chunk: Chunk) -> Mapping[tuple[int, int], str]:
        """The records of a chunk that are not to be delivered, and why."""
        aside = dict(self.aside)
        if self.suspicion is not None:
            for place, times in self.suspicion.suspects.items():
                aside[place] = f"{SET_ASIDE}it ended the worker {times} times: {self.how}"
        return {place: why for place, why in aside.items() if chunk.after < place[0] <= chunk.until}

    def delivered(self, chunk: Chunk) -> Iterable[tuple[int, int]]:
        """A chunk was committed.

        Returns:
            The records that are aside for good now.
        """
        for place in chunk.only:  # somebody tried it again, and it went
            self.aside.pop(place, None)
        if self.suspicion is None:
            return ()
        proven = [place for place in self.suspicion.suspects if place[0] <= chunk.until]
        left_out = self._left_out(chunk)
        self.aside |= {place: left_out[place] for place in proven if place in left_out}
        if self.suspicion.committed(chunk):
            self.suspicion = None
        return [place for place in proven if place in left_out]
