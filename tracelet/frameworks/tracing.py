"""Whether torch.compile traces through the code that asks: there nothing can be recorded, and nothing may stand in its way."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

__all__ = ["is_tracing", "know"]


def _never() -> bool:
    return False


is_tracing: Callable[[], bool] = _never


def know(torch: ModuleType) -> None:
    """Ask torch from now on, by the function that torch.compile takes for a constant."""
    global is_tracing
    is_tracing = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", _never)
