from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from tests.support.capturing import capture_alone
from tracelet import testing
from tracelet.frameworks.accelerate import AccelerateFramework


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trackers leave files. The class is in the end what Accelerate made it, and its state of this process is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = dict(vars(Accelerator))
    yield
    AccelerateFramework.uninstall()  # a tracker of ours has asked for it
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert dict(vars(Accelerator)) == before


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured


@pytest.fixture
def alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with capture_alone() as captured:
        yield captured
