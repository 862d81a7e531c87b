"""Waiting for delivery, and asking how things stand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.processes import collector_pid
from tracelet.errors import CollectorError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.transport import local, wait, watch


def backend(**said: object) -> wire.BackendState:
    return wire.BackendState(kind="mlflow", state="ok", **said)  # type: ignore[arg-type]


def test_what_is_missing_in_words() -> None:
    reply = wire.StatusReply()
    assert wait.missing(reply) == ""
    reply.runs.add(run_id="0123456789", name="one").backends.append(backend(settled=True))
    assert wait.missing(reply) == ""
    late = reply.runs.add(run_id="abcdefghij", name="two").backends.add()
    late.CopyFrom(backend(lag_points=7, delivered=3, last_error="it is down"))
    late.state = "retrying"
    reply.runs[1].durable = 10
    reply.runs[1].status = pb.RUN_STATUS_FINISHED
    reply.pending_spools = 2
    assert wait.missing(reply) == (
        "what 2 ended processes left is not read in; two (abcdefghij): mlflow lacks 7 of 10 points; it is retrying: it is down"
    )


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="did not answer"):
        wait.status(f"unix:{tmp_path}/nobody.sock", timeout=0.2)


def test_with_nothing_to_deliver_it_returns(home: Path) -> None:
    """A collector is started to know."""
    told: list[wire.StatusReply] = []
    assert wait.wait_delivered(home, timeout=120.0, tell=told.append) == ""
    assert told[-1].collector.pid == collector_pid(home)


def test_where_no_collector_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("in the way")
    monkeypatch.setattr(wait, "_PATIENCE", 0.5)
    assert "no collector c" in wait.wait_delivered(tmp_path, timeout=0.1)
    with pytest.raises(CollectorError, match="no collector c"):
        wait.wait_delivered(tmp_path)


def test_an_answer_that_does_not_come_is_asked_for_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting without end is not given up because a collector was busy for a moment."""
    ask, asked = watch.status, []

    def at_first_not(*arguments: object) -> wire.StatusReply:
        asked.append(arguments)
        if len(asked) < 3:
            raise CollectorError("busy")
        return ask(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "status", at_first_not)
    assert wait.wait_delivered(home) == ""
    assert len(asked) == 3


def test_the_time_counts_though_nobody_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.ensure(home, 30.0)

    def never(address: str, run_id: str, timeout: float) -> wire.StatusReply:
        assert timeout <= 1.0
        raise CollectorError("busy")

    monkeypatch.setattr(watch, "status", never)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(wait.wait_delivered(home, timeout=0.3)))
    thread.start()
    thread.join(60)
    assert found == [f"busy; {wait.kept(home)}"]
