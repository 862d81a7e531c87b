"""Runs that a library begins within the active one: in turn, and apart."""

from __future__ import annotations

import os
import threading

import pytest

import tracelet
from tests.support.spine import Spine
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.nested import children
from tracelet.testing import Captured, capture


def in_a_thread() -> object:
    """The run that a plain thread's points belong to."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(active.current()))
    thread.start()
    thread.join()
    return found[0]


def test_a_run_apart_gets_only_what_names_it(cap: Captured) -> None:
    with tracelet.start_logging("outer") as outer:
        first = children.begin("first", params={"lr": 0.1}, apart=True)
        second = children.begin("second", apart=True)
        assert first is not None
        assert second is not None
        assert active.current() is in_a_thread() is outer
        tracelet.log({"loss": 1.0}, step=0)
        first.record("value", 2.0, 3, None)
        children.end(first, RunStatus.FAILED, "no use")
        assert active.current() is in_a_thread() is outer
        with tracelet.start_logging("inner", nested=True) as inner:
            assert inner.plan.parent == outer.id
            assert active.current() is in_a_thread() is inner
    assert [(run.name, run.status.name) for run in cap.runs] == [
        ("outer", "FINISHED"),
        ("first", "FAILED"),
        ("second", "FINISHED"),
        ("inner", "FINISHED"),
    ]
    assert {run.plan.parent for run in cap.runs[1:]} == {outer.id}
    assert [(point.name, point.step) for point in cap.points(run=first)] == [("value", 3)]
    assert [point.name for point in cap.points(run=outer)] == ["loss"]


def test_the_context_of_a_pool_s_thread(cap: Captured) -> None:
    """It is lent a run for a while; a run of its own that was begun meanwhile stays."""

    def work() -> None:
        assert active.in_context() is None
        with active.lent(outer):
            assert active.in_context() is outer
            child = children.begin("child")
            assert active.in_context() is child
            children.end(child)
            assert active.in_context() is outer
        assert active.in_context() is None
        with active.lent(outer):
            own = tracelet.start_logging("own", nested=True)
        assert active.in_context() is own
        with active.lent(outer):
            assert active.in_context() is own
        own.__exit__(None, None, None)

    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    with tracelet.start_logging("outer") as outer:
        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join()
    assert raised == []
    assert [run.name for run in cap.runs] == ["outer", "child", "own"]


def test_without_a_run_around_there_is_none() -> None:
    assert children.begin("child") is None
    children.end(None)
    with capture() as cap, active.muted():
        assert children.begin("child") is None
    assert cap.runs == []


def test_in_a_capture_the_block_s_run_is_around(cap: Captured) -> None:
    for name in ("one", "two"):
        child = children.begin(name)
        tracelet.log({"loss": 1.0}, step=0)
        children.end(child)
    tracelet.log({"between": 1.0}, step=0)
    around, *runs = cap.runs
    assert [run.name for run in runs] == ["one", "two"]
    assert {run.plan.parent for run in runs} == {around.id}
    assert [point.name for point in cap.points(run=around)] == ["between"]
    assert [point.name for run in runs for point in cap.points(run=run)] == ["loss", "loss"]


def test_a_process_that_is_started_meanwhile_joins_the_active_run(
    shared_spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one apart, whose worker is elsewhere."""
    for name, value in shared_spine.environment.items():
        monkeypatch.setenv(name, value)
    with tracelet.start_logging("outer") as outer:
        apart = children.begin("apart", apart=True)
        assert os.environ["TRACELET_RUN_ID"] == outer.id
        child = children.begin("child")
        assert child is not None
        assert os.environ["TRACELET_RUN_ID"] == child.id
        children.end(child)
        assert os.environ["TRACELET_RUN_ID"] == outer.id
        children.end(apart)
    assert not os.environ.get("TRACELET_RUN_ID")
