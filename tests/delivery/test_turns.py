"""Runs that have caught up wait behind one chunk of those that are behind, however many these are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from tracelet_collector.delivery import Delivery
from tracelet_collector.delivery.backoff import Backoff, Patience
from tracelet_collector.delivery.course import Course
from tracelet_collector.delivery.turns import Turns
from tracelet_collector.log.base import Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.delivering import HASTY, Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.processes import until
from tracelet.core.metrics import Metric

T0 = 1_700_000_000.0


def points(count: int, start: int = 0) -> list[Metric]:
    return [Metric("loss", float(step), step, T0 + step) for step in range(start, start + count)]


def course(run_id: str, behind: bool) -> Course:
    spec = run_spec(run_id, "/x")
    return Course(spec, spec.backends[0], Backoff(Patience()), behind=behind)


def take(turns: Turns, at: Callable[[Course], float] = lambda _: 0.0) -> str:
    taken = turns.take(1.0, at)
    return taken.run.run_id if taken is not None else ""


class TestTurns:
    def test_each_half_has_half(self) -> None:
        turns = Turns()
        sizes = {True: 1000, False: 10}
        names = {run: course(run, run[0] == "b") for run in ("b1", "b2", "b3", "c1", "c2")}
        for each in names.values():
            turns.add(each)
        order = []
        for _ in range(200):
            order.append(take(turns))
            taken = names[order[-1]]
            turns.had(taken, sizes[taken.behind])
            turns.add(taken)
        behind = [run for run in order if run[0] == "b"]
        spent = len(behind) * 1050
        assert abs(spent - (len(order) - len(behind)) * 60) <= 1050
        assert behind[:6] == ["b1", "b2", "b3"] * 2
        assert [run for run in order if run[0] == "c"][:4] == ["c1", "c2"] * 2

    def test_one_that_has_caught_up_waits_behind_one_chunk(self) -> None:
        turns = Turns()
        behind = [course(f"b{number}", True) for number in range(20)]
        for each in behind:
            turns.add(each)
        for _ in range(50):  # whoever was not there has no claim to half of these
            taken = turns.take(1.0, lambda _: 0.0)
            assert taken is not None
            turns.had(taken, 1000)
            turns.add(taken)
        live = course("live", False)
        turns.add(live)
        order = []
        for _ in range(30):
            order.append(take(turns))
            if order[-1] == "live":
                turns.had(live, 10)
                turns.add(live)
        assert order[:12] == ["live"] * 12
        assert "b10" in order[:20]

    def test_who_may_not_go_is_passed_over(self) -> None:
        turns = Turns()
        late, soon = course("late", False), course("soon", True)
        turns.add(late)
        turns.add(soon)
        assert take(turns, lambda each: 5.0 if each is late else 0.0) == "soon"
        assert take(turns, lambda each: 5.0) == ""
        assert late in turns
        turns.remove(late)
        assert list(turns) == []


class _Recorder(SqliteLog):
    """A log that calls somebody after each commit of a cursor."""

    then: Callable[[str, Progress], None] = staticmethod(lambda run_id, progress: None)

    def commit(self, run_id: str, kind: str, progress: Progress) -> None:
        super().commit(run_id, kind, progress)
        self.then(run_id, progress)


def test_a_run_that_keeps_up_waits_for_one_chunk_of_twenty_that_are_behind(
    tmp_path: Path, ledger: Ledger, ledger_python: str
) -> None:
    """While twenty runs are behind, one writes ten points after each of its deliveries."""
    desk = Desk(tmp_path / "home")
    desk.log.close()
    desk.log = log = _Recorder(tmp_path / "home" / "log" / "tracelet.db")
    desk.delivery = Delivery(log, desk.home, HASTY)

    def spec(run_id: str):  # type: ignore[no-untyped-def]
        return run_spec(run_id, ledger.target, kind="ledger", interpreter=ledger_python)

    behind = [f"behind{number}" for number in range(20)]
    for run_id in behind:
        Writer(desk.log, spec(run_id)).write(points(5000))
    live = Writer(desk.log, spec("live"))
    order: list[str] = []
    written = 0

    def then(run_id: str, progress: Progress) -> None:
        nonlocal written
        order.append(run_id)
        if (run_id == "live" or len(order) == 21) and written < 300:
            live.write(points(10, start=written))
            written += 10
            desk.delivery._wake_lanes("live")  # at once: how long a thread sleeps is nobody's turn

    log.then = then
    with desk:
        until(lambda: all(desk.cursor(run_id, "ledger").settled for run_id in [*behind, "live"]), 90.0)
    assert written == 300
    turns = [place for place, run_id in enumerate(order) if run_id == "live"]
    assert len(turns) == 30
    # The one that was under way already.
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 2
    assert order[-1] in behind
    for run_id in behind:
        assert len(ledger.values(run_id)) == 5000
