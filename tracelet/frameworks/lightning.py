"""Lightning, as `lightning.pytorch`: what modules log, whatever loggers the Trainer has, and what belongs to it."""

from __future__ import annotations

from typing import ClassVar

from tracelet.frameworks.lightning_base import LightningBase

__all__ = ["LightningFramework"]


class LightningFramework(LightningBase):
    """`lightning.pytorch` in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        capture: record what modules log. Without it, only `TraceletLogger`, `log_metric` and `log_enhanced_metric` record.
        artifacts: files that become artifacts: "checkpoints", "exports", "profiles".
    """

    identifier: ClassVar[str] = "lightning"
    module: ClassVar[str] = "lightning.pytorch"
    package: ClassVar[str] = "lightning"
