"""Lightning under its older name, `pytorch_lightning`: a package of its own, whose classes are others.

`TraceletLogger` is in here too, for who would rather name a logger than be listened to. It is made when it is asked for:
importing this file does not import Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tracelet.frameworks.lightning_base import LightningBase

if TYPE_CHECKING:
    from tracelet.frameworks.lightning_logger import TraceletLogger

__all__ = ["PyTorchLightningFramework", "TraceletLogger"]


class PyTorchLightningFramework(LightningBase):
    """`pytorch_lightning` in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        capture: record what modules log. Without it, only `TraceletLogger`, `log_metric` and `log_enhanced_metric` record.
        artifacts: files that become artifacts: "checkpoints", "exports", "profiles".
    """

    identifier: ClassVar[str] = "pytorch_lightning"
    module: ClassVar[str] = "pytorch_lightning"
    package: ClassVar[str] = "pytorch_lightning"


def __getattr__(name: str) -> Any:
    if name == "TraceletLogger":
        from tracelet.frameworks.lightning_logger import logger_of

        globals()[name] = logger_of(PyTorchLightningFramework, __name__)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
