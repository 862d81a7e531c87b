"""A run within the active one that is nowhere, unless something is recorded in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tracelet
from tests.support.spine import Spine
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.nested import children
from tracelet.testing import Captured, capture


@pytest.fixture
def cap() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def test_a_late_run_begins_with_its_first_record(shared_spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then no process that is started here joins it, and no tracker has it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_spine.environment["MLFLOW_TRACKING_URI"])
    with tracelet.start_logging("around") as around:
        for name in ("empty", "full"):
            late = children.begin(name, tags={"a": "b"}, late=True)
            assert late is not None
            assert tracelet.get_active_experiment() is late
            assert not late.begun
            assert os.environ["TRACELET_RUN_ID"] == around.id
            if name == "full":
                tracelet.log({"value": 1.0}, step=3)
                assert late.begun
                assert os.environ["TRACELET_RUN_ID"] == late.id
            children.end(late, RunStatus.FINISHED)
            assert tracelet.get_active_experiment() is around
            assert os.environ["TRACELET_RUN_ID"] == around.id
    assert sorted(run.name for run in shared_spine.settle().runs) == ["around", "full"]


def test_within_a_late_run(cap: Captured) -> None:
    with tracelet.start_logging("around") as around:
        outer = children.begin("outer", late=True)
        assert outer is not None
        with tracelet.start_logging("inner", nested=True) as inner:
            tracelet.log({"value": 1.0}, step=0)
        assert inner.plan.parent == outer.id
        assert outer.begun  # it has something in it
        children.end(outer)
        assert outer.status is RunStatus.FINISHED
        assert active.here() is around


def test_none_where_nothing_records(cap: Captured, home: Path) -> None:
    with tracelet.start_logging(mode="disabled"), tracelet.start_logging("around") as around:
        around.end(RunStatus.FINISHED, "")
        assert children.begin("nested") is None
    children.end(None)
