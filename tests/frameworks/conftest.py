from __future__ import annotations

from collections.abc import Iterator

import pytest
import tensorboardX.writer
import torch
from torch.utils.tensorboard import writer as tensorboard

from tests.support import runs
from tracelet.core import active

CLASSES = (tensorboard.SummaryWriter, tensorboardX.writer.SummaryWriter, torch.optim.Optimizer)


@pytest.fixture(autouse=True)
def _classes_left_as_found() -> Iterator[None]:
    """Every test stops its runs, and each class is then what its library made it."""
    before = [dict(vars(kind)) for kind in CLASSES]
    yield
    for run in active.running():
        runs.stop(run)
    assert [dict(vars(kind)) for kind in CLASSES] == before
