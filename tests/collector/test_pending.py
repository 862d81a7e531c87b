"""What becomes of a run whose worker may be started again: by its launcher, which is gone in these tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.batches import run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

NOW = time.time_ns()


def restarts(left: int, **said: Any) -> dict[str, Any]:
    """Of a launcher that is gone: another process has its number."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"left": left, "boot": boot, "pid": 1, "started": "1", "namespace": os.readlink("/proc/self/ns/pid"), **said}


def of(collector: CollectorProcess, run: wire.RunSpec) -> wire.RunState | None:
    return next((state for state in collector.status(run.run_id).runs), None)


@pytest.mark.parametrize("first", ["the worker", "the end"])
@pytest.mark.parametrize(
    ("left", "ends"),
    [
        (2, pb.RUN_STATUS_KILLED),  # of an attempt before
        (1, pb.RUN_STATUS_FAILED),  # of this one: a rank failed before the first one had begun
    ],
)
def test_a_killed_worker_and_an_end_that_was_left_earlier(
    shared: CollectorProcess, left: int, ends: int, first: str
) -> None:
    """Whichever is found first; the run is never left running."""
    run, said = run_spec(), {"status": "failed", "reason": "boom", "wall_time": 1.8e9}
    worker = SlotWriter(shared.home, run, writer_spec(epoch=NOW), sends=False, restarts=restarts(1))
    worker.define()
    worker.points(5)
    until(lambda: (state := of(shared, run)) is not None and state.durable == 5, 30, "it is read along")
    of_rank = writer_spec(epoch=NOW - 1, writer_id="rank")
    end = SlotWriter(shared.home, run, of_rank, claim=True, restarts=restarts(left), end=said)
    first_one, other = (worker, end) if first == "the worker" else (end, worker)
    first_one.die()
    if first_one is worker or left == 2:  # else it waits for the other
        gone = first_one.path
        until(lambda: not gone.exists(), 30, "it is adopted, or deleted")
    other.die()
    until(lambda: not (shared.home / "spool" / run.run_id).exists(), 30, "both are adopted")
    state = of(shared, run)
    assert state is not None
    assert (state.status, state.durable) == (ends, 5)


def test_what_names_no_launcher_that_lives_waits_for_none(shared: CollectorProcess) -> None:
    strange = [
        None,
        "no mapping",
        {"left": 1, "pid": 1},
        restarts(1, pid="no number"),
        restarts(1, pid=10**30),
        restarts(1),
    ]
    # The first is that of a version that knew of no restarts.
    made = [(run_spec(), also) for also in ({}, *({"restarts": said} for said in strange))]
    workers = [SlotWriter(shared.home, run, writer_spec(epoch=NOW), **also) for run, also in made]
    for worker in workers:
        worker.define()
        worker.points(1)
        worker.die()
    until(lambda: not any(worker.path.exists() for worker in workers), 30, "they are adopted")
    for run, _ in made:
        assert of(shared, run).status == pb.RUN_STATUS_KILLED  # type: ignore[union-attr]
