from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: nothing is downloaded

import torch
from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from tests.support.capturing import capture_alone
from tracelet import testing
from tracelet.frameworks import table
from tracelet.frameworks.transformers import TransformersFramework


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """For tensors as small as these, more threads are in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainers leave files where they run. Both classes are in the end what Transformers made them.

    What the optimizers tell of themselves is not in between, but where a test asks for it.
    """
    monkeypatch.chdir(tmp_path)
    others = {name: where for name, where in table.FRAMEWORKS.items() if name != "optimizers"}
    monkeypatch.setattr(table, "FRAMEWORKS", others)
    before = [dict(vars(kind)) for kind in (Trainer, CallbackHandler)]
    yield
    TransformersFramework.uninstall()  # a callback of ours has asked for it
    assert [dict(vars(kind)) for kind in (Trainer, CallbackHandler)] == before


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured


@pytest.fixture
def alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with capture_alone() as captured:
        yield captured
