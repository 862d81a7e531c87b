"""Names of `tracelet.optim` that need more than torch: they are imported when they are asked for."""

from __future__ import annotations

from typing import Any

__all__ = ["__getattr__"]


def __getattr__(name: str) -> Any:
    if name == "BFOCallback":
        from tracelet.optim.lightning import BFOCallback

        return BFOCallback
    raise AttributeError(f"module 'tracelet.optim' has no attribute {name!r}")
