"""Steps and their differences: 64-bit integers that wrap around, so that any two of them have a difference."""

from __future__ import annotations

from typing import Final

from tracelet.core.metrics import INT64_MIN

__all__ = ["wrapped"]

_WRAP: Final = 2**64


def wrapped(number: int) -> int:
    """The int64 that is equal to `number` modulo 2**64."""
    return (number - INT64_MIN) % _WRAP + INT64_MIN
