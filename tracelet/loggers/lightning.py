"""`TraceletLogger` for `lightning.pytorch`, made when it is asked for: importing this file does not import Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracelet.frameworks.lightning import LightningFramework

if TYPE_CHECKING:
    from tracelet.loggers.lightning_logger import TraceletLogger

__all__ = ["TraceletLogger"]


def __getattr__(name: str) -> Any:
    if name == "TraceletLogger":
        from tracelet.loggers.lightning_logger import logger_of

        globals()[name] = logger_of(LightningFramework, __name__)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
