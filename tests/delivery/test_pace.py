"""A backend that is slower than its run: told with an estimate, and not when it is short."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from tracelet_collector.delivery.pace import AT_PACE, Pace
from tracelet_collector.log.base import BackendCursor
from tracelet_collector.status import report

from tests.support.delivering import HASTY, Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.processes import until
from tracelet.commands.falling_behind import falling_behind
from tracelet.core.metrics import Metric
from tracelet.proto.v1 import collector_pb2 as wire

T0 = 1_700_000_000.0
PLACE = ("r1", "mlflow")


def cursor(durable: int, accounted: int, waits: float = 60.0, at: float = 0.0) -> BackendCursor:
    lag = durable - accounted
    return BackendCursor(*PLACE, 1, accounted, 0, 0, 0, lag, at - waits if lag else None, False, "")


def looked(makes: float, takes: float, seconds: float, start: int = 100_000, waits: float = 60.0) -> Pace:
    """A minute of a run that makes and a tracker that takes so many points a second."""
    pace = Pace(5.0)
    for at in range(0, int(seconds) + 1, 5):
        pace.look([cursor(start + round(makes * at), round(takes * at), waits, float(at))], 1000.0 + at, float(at))
    return pace


class TestPace:
    def test_it_catches_up(self) -> None:
        outlook = looked(makes=500, takes=1500, seconds=50).outlook(PLACE)
        assert (outlook.makes, outlook.takes) == (500, 1500)
        assert outlook.catch_up_seconds == (100_000 + 500 * 50 - 1500 * 50) / 1000

    def test_it_never_does(self) -> None:
        outlook = looked(makes=5000, takes=2300, seconds=50).outlook(PLACE)
        assert (outlook.makes, outlook.takes, outlook.catch_up_seconds) == (5000, 2300, math.inf)

    def test_only_the_last_minute_counts(self) -> None:
        pace = looked(makes=0, takes=10, seconds=300)
        for at in range(305, 370, 5):
            pace.look([cursor(100_000, 3000 + 100 * (at - 300), 60.0, float(at))], 1000.0 + at, float(at))
        assert round(pace.outlook(PLACE).takes) == 100

    def test_a_short_lag_is_none(self) -> None:
        assert looked(makes=500, takes=400, seconds=50, waits=9.0).outlook(PLACE) == AT_PACE

    def test_two_looks_are_too_few(self) -> None:
        assert looked(makes=500, takes=400, seconds=5).outlook(PLACE) == AT_PACE

    def test_what_begins_anew_begins_anew(self) -> None:
        pace = looked(makes=0, takes=500, seconds=50)
        pace.look([cursor(100_000, 0, 60.0, 55.0)], 1055.0, 55.0)
        assert pace.outlook(PLACE) == AT_PACE

    def test_what_is_settled_is_forgotten(self) -> None:
        pace = looked(makes=500, takes=400, seconds=50)
        assert pace.outlook(PLACE) != AT_PACE
        assert not pace.look([], 2000.0, 0.0)
        assert pace.outlook(PLACE) == AT_PACE


class TestWords:
    def said(self, catch_up: float, takes: float = 0.0, makes: float = 0.0, state: str = "ok") -> str:
        return falling_behind(
            wire.BackendState(
                kind="mlflow",
                state=state,
                lag_points=120_000,
                catch_up_seconds=catch_up,
                takes_per_second=takes,
                makes_per_second=makes,
            )
        )

    def test_an_estimate(self) -> None:
        assert self.said(240.0) == "falling behind: 120,000 points, about 4 min at the present rate"
        assert "about 45 s at" in self.said(45.0)
        assert "about 3 h at" in self.said(3 * 3600.0)
        assert "about 9 days at" in self.said(9 * 86_400.0)

    def test_no_end(self) -> None:
        assert self.said(math.inf, 2300.4, 5000.0) == (
            "falling behind: 120,000 points, and the distance grows: the tracker takes 2,300 points/s, the run makes 5,000"
        )
        assert self.said(math.inf) == "falling behind: 120,000 points, of which it has taken none of late"

    def test_nothing(self) -> None:
        assert self.said(0.0) == ""
        assert self.said(math.inf, state="retrying") == ""


def test_a_slow_tracker_is_told(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    ledger.rule(slow=0.2)
    with Desk(tmp_path / "home", dataclasses.replace(HASTY, pace=0.1)) as desk:
        writer = Writer(desk.log, run_spec("r1", ledger.target, kind="ledger", interpreter=ledger_python))

        def outlook() -> wire.BackendState:
            (run,) = report(desk.log.overview("r1"), desk.delivery.live(), lambda _: 0)
            return run.backends[0]

        def write(count: int) -> None:
            start = writer.next_seq
            writer.write([Metric("loss", 0.5, step, T0) for step in range(start, start + count)])
            desk.delivery.wake("r1")

        write(40_000)
        until(lambda: 0 < outlook().catch_up_seconds < math.inf, 60.0)
        assert outlook().makes_per_second == 0
        assert "at the present rate" in falling_behind(outlook()) or not outlook().catch_up_seconds

        def grows() -> bool:
            write(5000)
            return outlook().catch_up_seconds == math.inf

        until(grows, 60.0)
        ledger.rule()
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        until(lambda: outlook().catch_up_seconds == 0, 60.0)
