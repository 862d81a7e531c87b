"""Lightning under its older name, `pytorch_lightning`: a package of its own, whose classes are others."""

from __future__ import annotations

from typing import ClassVar

from tracelet.frameworks.lightning_base import LightningBase

__all__ = ["PyTorchLightningFramework"]


class PyTorchLightningFramework(LightningBase):
    """`pytorch_lightning` in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        capture: record what modules log. Without it, only `TraceletLogger`, `log_metric` and `log_enhanced_metric` record.
        artifacts: files that become artifacts: "checkpoints", "exports", "profiles".
    """

    identifier: ClassVar[str] = "pytorch_lightning"
    module: ClassVar[str] = "pytorch_lightning"
    package: ClassVar[str] = "pytorch_lightning"
