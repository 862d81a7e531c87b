"""When more may be told about a run, and where nothing is recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.spool_points import points
from tracelet.core import active
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import RunStatus


def test_what_is_told_at_the_end_is_before_the_end(home: Path) -> None:
    with runs.running(home) as run:
        run.occasions.before_end(lambda: run.log_metric("last", 1.0, 0))
        run.log_metric("first", 1.0, 0)
    assert [point.name for point in points(home)] == ["first", "last"]


def test_a_run_that_begins_with_its_first_record_tells_then(home: Path) -> None:
    run = Experiment(RunPlan("a", "test", "default", (), home, owner=True, carried=False))
    told: list[str] = []
    run.occasions.when_begun(lambda: told.append("begun"))
    run.occasions.before_end(lambda: told.append("ending"))
    assert told == []
    run.log_metric("first", 1.0, 0)
    run.log_metric("second", 1.0, 1)
    run.occasions.when_begun(lambda: told.append("at once"))
    assert told == ["begun", "at once"]
    run.stop(RunStatus.FINISHED, "", 0.0)
    run.stop(RunStatus.FINISHED, "", 0.0)
    assert told == ["begun", "at once", "ending"]


def test_one_that_fails_costs_a_line_and_the_others_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    with runs.running(home) as run:
        run.occasions.before_end(lambda: 1 // 0)
        run.occasions.before_end(lambda: run.log_metric("last", 1.0, 0))
    assert [point.name for point in points(home)] == ["last"]
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1


def test_a_forked_child_tells_nothing_of_its_parents(home: Path) -> None:
    with runs.running(home) as run:
        run.occasions.before_end(lambda: run.log_metric("last", float(os.getpid()), 0))
        child = os.fork()
        if child == 0:
            run.log_metric("child", 1.0, 0)
            run.stop(RunStatus.FINISHED, "", 0.0)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert {point.name: point.value for point in points(home)} == {"child": 1.0, "last": float(os.getpid())}


def test_in_a_muted_context_points_belong_to_no_run(home: Path) -> None:
    with runs.running(home) as run:
        with active.muted():
            assert active.current() is active.in_context() is None
            assert active.here() is run
            assert active.is_muted()
        assert active.current() is active.in_context() is run
        assert not active.is_muted()
