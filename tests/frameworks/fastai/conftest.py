from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastai", reason="the Makefile installs fastai, without what it depends on")

import torch
from fastai.callback import schedule  # noqa: F401  # puts its methods onto Learner
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.learner import Learner, Recorder

from tracelet import testing

CLASSES = (Learner, Recorder, TensorBoardCallback)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Learners leave files where they run. Every class is in the end what fastai made it."""
    monkeypatch.chdir(tmp_path)
    before = [dict(vars(kind)) for kind in CLASSES]
    yield
    assert [dict(vars(kind)) for kind in CLASSES] == before


@pytest.fixture
def cap() -> Iterator[testing.Captured]:
    with testing.capture() as captured:
        yield captured
