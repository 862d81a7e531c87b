"""Each population optimizer in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.searching import ALGORITHMS, make


@pytest.fixture(params=ALGORITHMS)
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda params, **kwargs: make(request.param, params, **kwargs)
