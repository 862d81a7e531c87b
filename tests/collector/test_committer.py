"""Group commit: what waits goes together, what the log cannot take goes alone, and everybody gets an answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tracelet_collector.committer import Committer, Outcome, Pending, Rejected
from tracelet_collector.log.base import Append, LogFailed, SequenceGap
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import batch, opening, run_spec, writer_spec
from tests.support.processes import until
from tracelet.proto import codec
from tracelet.proto.v1 import records_pb2 as pb


class SlowLog(SqliteLog):
    """A log that can be held up, and that chokes on batches of 13 positions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = threading.Event()
        self.go.set()
        self.groups: list[int] = []

    def append(self, batches: Sequence[Append]) -> list[int | SequenceGap]:
        assert self.go.wait(60)
        self.groups.append(len(batches))
        if any(append.batch is not None and append.batch.count == 13 for append in batches):
            raise OverflowError("choked")
        return super().append(batches)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SlowLog]:
    made = SlowLog(tmp_path / "tracelet.db")
    yield made
    made.go.set()
    made.close()


def pending(log: SlowLog, run_id: str, outcomes: dict[str, list[Outcome]], *batches: pb.Batch) -> list[Pending]:
    stream = log.open_stream(run_spec(run_id=run_id), writer_spec()).stream
    outcomes.setdefault(run_id, [])
    return [
        Pending(run_id, Append(stream, b.SerializeToString(), b), codec.tally(b).points, outcomes[run_id].append)
        for b in batches
    ]


def test_what_waits_goes_into_one_transaction(log: SlowLog) -> None:
    woken: list[str] = []
    outcomes: dict[str, list[Outcome]] = {}
    committer = Committer(log, woken.append)
    work = pending(log, "a", outcomes, opening(10), batch(10, 10), batch(20, 10))
    work += pending(log, "b", outcomes, opening(5))
    log.go.clear()
    committer.start()
    for one in work:
        committer.submit(one)
    assert (committer.under_way("a"), committer.under_way("b"), committer.under_way("c")) == (29, 4, 0)
    log.go.set()
    until(lambda: len(woken) >= 2)
    assert outcomes == {"a": [10, 20, 30], "b": [5]}
    assert sum(log.groups) == 4
    assert len(log.groups) <= 2  # the first may have gone alone
    assert (committer.under_way("a"), committer.under_way("b")) == (0, 0)
    committer.stop(10)


def test_a_batch_that_the_log_chokes_on_takes_nobody_with_it(log: SlowLog) -> None:
    outcomes: dict[str, list[Outcome]] = {}
    committer = Committer(log, lambda run_id: None)
    work = pending(log, "a", outcomes, opening(10)) + pending(log, "b", outcomes, opening(13))
    work += pending(log, "c", outcomes, opening(7))
    log.go.clear()
    committer.start()
    for one in work:
        committer.submit(one)
    log.go.set()
    until(lambda: all(outcomes.values()))
    assert (outcomes["a"], outcomes["c"]) == ([10], [7])
    assert isinstance(outcomes["b"][0], Rejected)
    committer.stop(10)


def test_stopping_answers_everybody(log: SlowLog) -> None:
    outcomes: dict[str, list[Outcome]] = {}
    committer = Committer(log, lambda run_id: None)
    before, after = pending(log, "a", outcomes, opening(10), batch(10, 10))
    committer.start()
    committer.submit(before)
    committer.stop(20)
    committer.submit(after)
    assert outcomes["a"][0] == 10
    assert isinstance(outcomes["a"][1], LogFailed)
    assert not committer.alive
