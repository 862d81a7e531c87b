"""PyTorch: what `torch.utils.tensorboard.SummaryWriter` is given."""

from __future__ import annotations

from typing import ClassVar

from tracelet.frameworks.summarywriter import SummaryWriterFramework

__all__ = ["PyTorchFramework"]


class PyTorchFramework(SummaryWriterFramework):
    """PyTorch in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        patch_tensorboard: record what SummaryWriters log. Without it only `log_metric` and `log_enhanced_metric` record.
    """

    identifier: ClassVar[str] = "pytorch"
    module: ClassVar[str] = "torch.utils.tensorboard.writer"
    package: ClassVar[str] = "torch"
    since: ClassVar[tuple[int, ...]] = (2, 2)
    before: ClassVar[tuple[int, ...]] = (3,)
    layout: ClassVar[str] = "tensorboard.plugins.custom_scalar.layout_pb2"
    hparams_step: ClassVar[int] = 4
