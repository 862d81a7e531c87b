from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from formed.integrations.torch import TorchTrainer
from formed.workflow import AsyncWorkflowExecutor, DefaultWorkflowExecutor
from formed.workflow.cache import FilesystemWorkflowCache, MemoryWorkflowCache

from tests.support.capturing import capture_alone
from tracelet import testing
from tracelet.nested.formed import FormedFramework

CLASSES = (
    TorchTrainer,
    DefaultWorkflowExecutor,
    AsyncWorkflowExecutor,
    FilesystemWorkflowCache,
    MemoryWorkflowCache,
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Callbacks leave files where they run. Every class is in the end what formed made it.

    With one thread: on a machine that is busy, more of them wait for each other in every small step.
    """
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = [dict(vars(kind)) for kind in CLASSES]
    yield
    torch.set_num_threads(threads)
    FormedFramework.named.clear()  # a test's callback may be in a traceback that pytest keeps
    FormedFramework.uninstall()
    assert [dict(vars(kind)) for kind in CLASSES] == before


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    """What arrives, in the run that a capture has."""
    with testing.capture() as captured:
        yield captured


@pytest.fixture
def alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with capture_alone() as captured:
        yield captured
