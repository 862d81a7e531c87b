from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch.utils.tensorboard import writer as tensorboard

from tests.support import runs
from tracelet.core import active

METHODS = ("__init__", "add_scalar", "add_scalars")


@pytest.fixture(autouse=True)
def _class_left_as_found() -> Iterator[None]:
    """Every test stops its runs, and SummaryWriter is then what torch made it."""
    before = {name: tensorboard.SummaryWriter.__dict__[name] for name in METHODS}
    yield
    for run in active.running():
        runs.stop(run)
    assert {name: tensorboard.SummaryWriter.__dict__[name] for name in METHODS} == before
