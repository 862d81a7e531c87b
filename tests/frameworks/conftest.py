from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import tensorboardX.writer
import torch
from torch.utils.tensorboard import writer as tensorboard

from tests.support import runs
from tracelet.core import active

PLACES: tuple[type | ModuleType, ...] = (
    tensorboard.SummaryWriter,
    tensorboardX.writer.SummaryWriter,
    torch.optim.Optimizer,
    torch.amp.GradScaler,
    torch.autograd,
    torch.nn.utils,
    importlib.import_module("torch.nn.utils.clip_grad"),
)


@pytest.fixture(autouse=True)
def _classes_left_as_found() -> Iterator[None]:
    """Every test stops its runs, and each class and module is then what its library made it."""
    before = [dict(vars(place)) for place in PLACES]
    yield
    for run in active.running():
        runs.stop(run)
    # Not what came along: modules below these are imported when they are needed.
    assert [{name: vars(place)[name] for name in names} for place, names in zip(PLACES, before, strict=True)] == before
