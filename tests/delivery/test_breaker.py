"""A target that is down is asked by one run at a time, and by none while it wants to be left alone."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from pathlib import Path

import pytest
from tracelet_collector.delivery import Patience
from tracelet_collector.delivery.breaker import Breaker

from tests.support.delivering import HASTY, Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.processes import until
from tracelet.core.metrics import Metric

T0 = 1_700_000_000.0


def points(count: int) -> list[Metric]:
    return [Metric("loss", float(step), step, T0 + step) for step in range(count)]


class TestBreaker:
    def test_it_opens_with_the_third_failure(self) -> None:
        breaker = Breaker(Patience(first=5.0, most=30.0))
        for run in "ab":
            breaker.failed(run, "no")
        assert not breaker.open
        assert breaker.until("a") == breaker.until("d") == 0.0
        breaker.failed("c", "refused")
        assert breaker.open
        now = time.monotonic()
        for run in "abcd":  # whoever comes next: three tell enough of the target
            assert now < breaker.until(run) <= now + 30.0
        assert "refused (3 attempts since " in str(breaker)

    def test_one_runs_trouble_is_not_the_others(self) -> None:
        breaker = Breaker(Patience(first=5.0))
        for _ in range(9):
            breaker.failed("a", "no")
        assert breaker.open
        assert breaker.until("a") > time.monotonic()
        assert breaker.until("b") == 0.0
        breaker.failed("b", "no")
        assert breaker.until("b") > time.monotonic()

    def test_the_server_says_how_long(self) -> None:
        breaker = Breaker(Patience(first=0.1, most=1.0))
        breaker.failed("a", "too many", at_least=100.0)
        assert breaker.open
        assert breaker.until("b") > time.monotonic() + 90.0

    def test_there_is_a_longest_wait_and_no_last_attempt(self) -> None:
        breaker = Breaker(Patience(first=0.5, most=30.0))
        for _ in range(500):
            breaker.failed("a", "no")
            assert breaker.until("a") <= time.monotonic() + 30.0


def test_a_hundred_runs_ask_one_at_a_time(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    patience = Patience(first=0.05, most=0.2, paused=0.3, idle=60.0, sweep=60.0)
    ledger.rule(down="nobody there")
    ok = Ledger(tmp_path / "ok")
    names = [f"r{number}" for number in range(100)]
    with Desk(tmp_path / "home", patience) as desk:
        for name in names:
            Writer(desk.log, run_spec(name, ledger.target, kind="ledger", interpreter=ledger_python)).write(points(5))
            desk.delivery.wake(name)
        until(lambda: len(ledger.calls()) >= 20, 60.0)
        calls = ledger.calls()
        # Another target of the same worker is not held up.
        Writer(desk.log, run_spec("good", ok.target, kind="ledger", interpreter=ledger_python)).write(points(5))
        desk.delivery.wake("good")
        until(lambda: desk.cursor("good", "ledger").settled, 60.0)
        until(lambda: all(desk.live(name, "ledger").state == "retrying" for name in names), 60.0)
        for name in (names[0], names[-1]):  # tried or not
            assert "nobody there (" in desk.live(name, "ledger").last_error
            assert " attempts since " in desk.live(name, "ledger").last_error
        assert (desk.live("good", "ledger").state, desk.live("good", "ledger").last_error) == ("ok", "")
        ledger.rule()
        until(lambda: all(desk.cursor(name, "ledger").settled for name in names), 60.0)
        assert {desk.live(name, "ledger").state for name in names} == {"ok"}
    waits = [after["at"] - before["at"] for before, after in itertools.pairwise(calls[2:])]
    assert min(waits) >= 0.05
    assert len({call["run"] for call in calls}) > 10  # in turn
    for name in names:
        assert ledger.values(name) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_paused_run_holds_up_nobody(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    """One key is refused, again and again; others are not."""
    import dataclasses

    from tracelet.transport.credentials import keep

    ledger.rule(key="right")
    home = tmp_path / "home"
    right, wrong = (keep(home, {"MLFLOW_TRACKING_TOKEN": word}) for word in ("right", "wrong"))
    with Desk(home, dataclasses.replace(HASTY, paused=0.05)) as desk:
        spec = run_spec("bad", ledger.target, kind="ledger", interpreter=ledger_python, credentials=wrong)
        Writer(desk.log, spec).write(points(5))
        desk.delivery.wake("bad")
        until(lambda: len(ledger.calls()) >= 5, 60.0)
        assert desk.live("bad", "ledger").last_error == "the key is refused"
        spec = run_spec("good", ledger.target, kind="ledger", interpreter=ledger_python, credentials=right)
        Writer(desk.log, spec).write(points(5))
        desk.delivery.wake("good")
        until(lambda: desk.cursor("good", "ledger").settled, 60.0)
        assert desk.live("bad", "ledger").state == "paused"


@pytest.mark.usefixtures("no_grace")
def test_a_local_target_that_hangs_gets_a_worker_of_its_own(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    import dataclasses

    ledger.rule(hang=["loss"])
    ok = Ledger(tmp_path / "ok")
    with Desk(tmp_path / "home", dataclasses.replace(HASTY, export=2.0)) as desk:
        Writer(desk.log, run_spec("stuck", ledger.target, kind="ledger", interpreter=ledger_python)).write(points(5))
        good = Writer(desk.log, run_spec("good", ok.target, kind="ledger", interpreter=ledger_python))
        good.write(points(5))
        desk.delivery.wake("stuck")
        desk.delivery.wake("good")
        until(lambda: desk.cursor("good", "ledger").settled, 60.0)
        until(lambda: len({call["pid"] for call in ledger.calls()}) >= 2, 60.0)
        good.write(points(5))
        desk.delivery.wake("good")
        until(lambda: desk.cursor("good", "ledger").settled, 60.0)
        assert ok.calls()[-1]["pid"] not in {call["pid"] for call in ledger.calls()[1:]}
        ledger.rule()
        until(lambda: desk.cursor("stuck", "ledger").settled, 60.0)
        assert desk.cursor("stuck", "ledger").dead == 0
    assert ledger.values("stuck") == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_an_mlflow_server_that_hangs_sees_one_connection_at_a_time(tmp_path: Path) -> None:
    """It accepts, and never answers."""
    from tracelet.transport.credentials import keep

    home = tmp_path / "home"
    key = keep(home, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        names = [f"r{number}" for number in range(30)]
        with Desk(home) as desk:
            for name in names:
                Writer(desk.log, run_spec(name, address, credentials=key)).write(points(5))
                desk.delivery.wake(name)
            until(lambda: all(desk.live(name).state == "retrying" for name in names), 90.0)
            attempts = int(desk.live(names[-1]).last_error.rpartition("(")[2].split()[0])
            assert attempts >= 3
            seen = len(accepted)
            assert seen <= 2 * (attempts + 2), "MLflow itself repeats a call once"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(60.0)
    for connection in accepted:
        connection.close()
