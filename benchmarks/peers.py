"""Other trackers that capture a SummaryWriter, started as their documentation says, with nothing on the network.

Each is started before the writer is made: some of them miss writers that were made earlier.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Peer"]

Finish = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """A tracker.

    Attributes:
        package: what has to be installed.
        how: how it captures, in words.
        start: begins a run in a folder of its own; what ends it comes back.
    """

    package: str
    how: str
    start: Callable[[Path], Finish]


def _wandb(folder: Path) -> Finish:
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    run = wandb.init(project="bench", mode="offline", dir=str(folder), sync_tensorboard=True)
    return run.finish


def _mlflow(folder: Path) -> Finish:
    # The store of this benchmark's tracelet: MLFLOW_TRACKING_URI.
    import mlflow
    import mlflow.pytorch

    mlflow.set_experiment("bench-mlflow")
    mlflow.pytorch.autolog(log_every_n_step=1, log_models=False)
    mlflow.start_run()
    return mlflow.end_run


def _clearml(folder: Path) -> Finish:
    os.environ.update(CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=str(folder), CLEARML_LOG_LEVEL="ERROR")
    from clearml import Task

    # No argument parser, output or environment of ours: only what logs.
    task = Task.init("bench", "intercept")
    return task.close


PEERS: Mapping[str, Peer] = {
    "wandb": Peer("wandb", "sync_tensorboard, offline", _wandb),
    "mlflow": Peer("mlflow", "autolog to a sqlite store", _mlflow),
    "clearml": Peer("clearml", "Task.init, offline", _clearml),
}
