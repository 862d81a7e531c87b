"""A writer that was taken for dead, and is not: its run goes on, and each of its records is there once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Client
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import Metric, Params, RunEnd, RunStatus
from tracelet.transport.sender import Sender


@pytest.mark.parametrize("first", ["a point", "a point with metadata", "parameters", "nothing"])
def test_it_goes_on_and_nothing_is_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], first: str
) -> None:
    """The lock of its spool is gone, as when a script closes all files; a new collector finds it so."""
    here, go, waits, carry = Client(home, home), threading.Event(), threading.Event(), Sender._carry

    def later(self: Any) -> None:
        waits.set()
        go.wait(60)
        carry(self)

    run = Experiment(RunPlan("r", "lost", "p", (), home, flush_interval=0.01))
    with CollectorProcess(home):
        run.begin()
        for step in range(10):
            run.log_metric("a", step, step)
        until(lambda: run.progress()[1] >= 11)
        monkeypatch.setattr(Sender, "_carry", later)
    waits.wait(60)
    assert run._recorder is not None
    run._recorder.spool._free_lock()
    with CollectorProcess(home):
        until(lambda: here.status_now("lost") == "killed")
        if first == "a point with metadata":
            run.log_enhanced("b", 7, "loss", 7, {"x" * 100: "y" * 100})
        elif first == "parameters":
            run.log_params({"late": 1})
        if first != "nothing":
            for step in range(10, 20):
                run.log_metric("a", step, step)
        go.set()
        until(lambda: here.status_now("lost") == "running")
        run.log_metric("a", 20, 20)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
    steps = [step for step, _ in here.points("lost", "a")]
    assert sorted(steps) == [*range(10), *(range(10, 20) if first != "nothing" else ()), 20]
    assert len([p for p in here.records("lost", Metric) if p.name == "b"]) == (first == "a point with metadata")
    assert len(here.records("lost", Params)) == (first == "parameters")
    ends = [end.status for end in here.records("lost", RunEnd)]
    assert ends == [RunStatus.KILLED, RunStatus.RUNNING, RunStatus.FINISHED]
    (line,) = capfd.readouterr().err.splitlines()
    assert "a collector took this process for dead" in line
