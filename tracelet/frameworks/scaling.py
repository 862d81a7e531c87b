"""GradScalers: what they scaled a loss from, and which steps they skipped."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from tracelet.frameworks.tensors import is_plain

__all__ = ["Scaled", "of_scaling", "scaled_by", "unscaled"]

_MOST: Final = 16  # scaled losses that wait for their backward()


class Scaled(NamedTuple):
    """What a GradScaler gave out.

    Attributes:
        result: gives what it gave out.
        original: what it was made of.
        scale: the tensor that holds the scale.
    """

    result: weakref.ref[Any]
    original: Any
    scale: Any


def of_scaling(scaler: Any, outputs: Any, result: Any) -> list[Scaled]:
    """What a call of `scale` leaves to `backward()`."""
    scale = getattr(scaler, "_scale", None)
    if result is outputs or scale is None:
        return []
    if is_plain(outputs):
        return [Scaled(weakref.ref(result), outputs.detach(), scale)]
    if isinstance(outputs, list | tuple) and isinstance(result, Iterable):
        pairs = zip(outputs, result, strict=False)
        return [each for one, other in pairs for each in of_scaling(scaler, one, other)]
    return []


def scaled_by(waiting: list[Scaled], more: list[Scaled]) -> list[Scaled]:
    """What waits for its `backward()`, with more."""
    return (waiting + more)[-_MOST:]


def unscaled(waiting: list[Scaled], loss: Any) -> tuple[Any, Any, list[Scaled]]:
    """What a loss was before a GradScaler scaled it.

    Returns:
        The loss, or what it was made of; what it is still to be divided by, when it was made of something scaled; what goes on
        waiting.
    """
    for place in range(len(waiting) - 1, -1, -1):
        if waiting[place].result() is loss:
            return waiting[place].original, None, waiting[:place] + waiting[place + 1 :]
    return (loss, waiting[-1].scale.detach().clone(), []) if waiting else (loss, None, waiting)
