"""tensorboardX: what `tensorboardX.SummaryWriter` is given."""

from __future__ import annotations

from typing import ClassVar

from tracelet.frameworks.summarywriter import SummaryWriterFramework

__all__ = ["TensorboardXFramework"]


class TensorboardXFramework(SummaryWriterFramework):
    """tensorboardX in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        patch_tensorboard: record what SummaryWriters log. Without it only `log_metric` and `log_enhanced_metric` record.
    """

    identifier: ClassVar[str] = "tensorboardX"
    module: ClassVar[str] = "tensorboardX.writer"
    package: ClassVar[str] = "tensorboardX"
    since: ClassVar[tuple[int, ...]] = (2, 6, 2)
    before: ClassVar[tuple[int, ...]] = (3,)
    layout: ClassVar[str] = "tensorboardX.proto.layout_pb2"
    settings: ClassVar[str] = "pytorch"  # whoever switches the capture of SummaryWriters off means all of them
    hparams_step: ClassVar[int] = 3
