"""How long an MLflow server wants to be left alone: what `Retry-After` said, which MLflow's own errors do not tell."""

from __future__ import annotations

import email.utils
import http.client
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["Asked", "listening"]

_BUSY: Final = frozenset({429, 503})
_said: list[str] = []


class _Response(http.client.HTTPResponse):
    """An answer that is looked at as it comes in; MLflow may ask once more before it gives up."""

    def begin(self) -> None:
        super().begin()
        if self.status in _BUSY:
            _said[:] = [self.headers.get("Retry-After", "")]


class Asked:
    """What was heard meanwhile."""

    @property
    def seconds(self) -> float | None:
        """To wait; None when nothing was said of it."""
        return _seconds(_said[0]) if _said else None


@contextmanager
def listening() -> Iterator[Asked]:
    """Listen to the answers of all servers that are spoken to meanwhile. For one thread of a worker process at a time."""
    connection: Any = http.client.HTTPConnection
    before = connection.response_class
    connection.response_class = _Response
    _said.clear()
    try:
        yield Asked()
    finally:
        connection.response_class = before


def _seconds(said: str) -> float | None:
    """A number of seconds, or a date."""
    try:
        seconds = float(said)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
