"""How things stand: the answer to `Status`, from the log, delivery and the spools; also when no collector runs."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet_collector.home import log_path
from tracelet_collector.log import reading
from tracelet_collector.log.base import BackendCursor, LogFailed, RunRow, slot_of
from tracelet_collector.log.schema import open_reader, remedy
from tracelet_collector.spools import Spools

__all__ = ["LiveState", "read_offline", "report"]


class LiveOutlook(Protocol):
    """Where a run's backend is heading."""

    @property
    def catch_up_seconds(self) -> float:
        """Until it has caught up; 0: it is not behind, inf: never."""

    @property
    def takes(self) -> float:
        """Points a second, of the tracker."""

    @property
    def makes(self) -> float:
        """Points a second, of the run."""


class LiveState(Protocol):
    """What delivery says of a run's backend."""

    @property
    def state(self) -> str:
        """ok, retrying or paused."""

    @property
    def last_error(self) -> str:
        """Why it is not ok."""

    @property
    def worker_pid(self) -> int:
        """The process that delivers; 0: none now."""

    @property
    def outlook(self) -> LiveOutlook:
        """Whether it catches up."""


def report(
    overview: Sequence[tuple[RunRow, Sequence[BackendCursor]]],
    live: Mapping[tuple[str, str], LiveState],
    under_way: Callable[[str], int],
) -> list[wire.RunState]:
    """The runs' states.

    Args:
        overview: runs and cursors of one moment.
        live: what delivery says now.
        under_way: points of a run that were received and are not durable yet.
    """
    now = time.time()
    return [
        wire.RunState(
            run_id=run.spec.run_id,
            name=run.spec.name,
            project=run.spec.project,
            status=codec.status_to_wire(run.status),
            labels=run.labels,
            received=run.durable + under_way(run.spec.run_id),
            durable=run.durable,
            dropped=run.dropped,
            backends=[_backend(run, cursor, live, now) for cursor in cursors],
            created=run.spec.created,
            ended=run.ended or 0.0,
            retired=run.retired,
        )
        for run, cursors in overview
    ]


def _backend(
    run: RunRow, cursor: BackendCursor, live: Mapping[tuple[str, str], LiveState], now: float
) -> wire.BackendState:
    said = live.get((cursor.run_id, cursor.kind))
    backend = next((backend for backend in run.spec.backends if slot_of(backend) == cursor.kind), None)
    return wire.BackendState(
        kind=backend.kind if backend else cursor.kind,
        target=backend.target if backend else "",
        slot=cursor.kind,
        state=said.state if said else "ok",
        delivered=cursor.delivered,
        collapsed=cursor.collapsed,
        rerouted=cursor.rerouted,
        dead=cursor.dead,
        lag_points=cursor.lag_points,
        lag_seconds=max(now - cursor.oldest, 0.0) if cursor.oldest is not None else 0.0,
        last_error=said.last_error if said else "",
        worker_pid=said.worker_pid if said else 0,
        settled=cursor.settled,
        catch_up_seconds=said.outlook.catch_up_seconds if said else 0.0,
        takes_per_second=said.outlook.takes if said else 0.0,
        makes_per_second=said.outlook.makes if said else 0.0,
        link=_link(cursor.state),
    )


def _link(state: str) -> str:
    """Where the run is in the tracker, as its exporter said last."""
    said = json.loads(state).get("link") if state else None
    return said if isinstance(said, str) else ""


def read_offline(home: Path, run_id: str | None = None) -> wire.StatusReply:
    """How things stand in a home where no collector runs. Call it in no process that writes a spool there.

    Args:
        home: tracelet's home; one without a log gives an empty reply.
        run_id: one run; by default all.

    Raises:
        LogFailed: the log cannot be read.
    """
    reply = wire.StatusReply(pending_spools=Spools(home).pending(run_id))
    path = log_path(home)
    try:
        with closing(open_reader(path)) as db:
            db.execute("BEGIN")
            reply.runs.extend(report(reading.overview(db, run_id), {}, lambda _: 0))
    except FileNotFoundError:
        return reply
    except sqlite3.Error as error:
        raise LogFailed(f"{path} could not be read: {error}{remedy(path, error)}") from error
    return reply
