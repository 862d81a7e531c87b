"""A `tracelet.testing.capture()` in which no run is active: for libraries' callbacks that begin one then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tracelet import lifetime, testing

__all__ = ["capture_alone"]


@contextmanager
def capture_alone() -> Iterator[testing.Captured]:
    """A capture that has no run of its own."""
    with testing.capture() as captured:
        assert captured._captor is not None
        assert captured._captor.stand_in is not None
        lifetime.deactivate(captured._captor.stand_in)
        yield captured
