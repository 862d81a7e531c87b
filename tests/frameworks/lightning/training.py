"""Small trainings by either of Lightning's packages, always the same one for the same arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytorch_lightning
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tracelet.core import active
from tracelet.frameworks.versions import reaches

__all__ = ["PACKAGES", "QUIET", "csv_rows", "data", "events", "fit", "given", "is_since", "module", "trainer"]

PACKAGES: Mapping[str, ModuleType] = {"lightning": lightning.pytorch, "pytorch_lightning": pytorch_lightning}
QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}

# What a logger was given: name, value, step, in order.
Given = list[tuple[str, float, int]]


def is_since(package: ModuleType, *version: int) -> bool:
    """Whether it is of a version, or newer: `make oldest` runs these tests with the oldest that is supported."""
    return bool(reaches(package.__version__, version))


def data(rows: int = 16, batch: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(rows, 4, generator=generator)), batch_size=batch)


@cache
def module_class(package: ModuleType) -> type:
    class Small(package.LightningModule):  # type: ignore[name-defined, misc]
        """One layer whose weights begin the same in every training."""

        def __init__(self, width: int = 1, lr: float = 0.1) -> None:
            super().__init__()
            self.layer = nn.Linear(4, width)
            nn.init.constant_(self.layer.weight, 0.5)
            nn.init.zeros_(self.layer.bias)
            self.lr = lr

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

        def loss(self, batch: Any) -> torch.Tensor:
            return self.layer(batch[0]).pow(2).mean()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            self.log_dict({"weight": self.layer.weight[0, 0], "batch": float(batch_idx)})
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self.loss(batch), on_step=True, on_epoch=True)

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    return Small


def module(package: ModuleType, **arguments: Any) -> Any:
    return module_class(package)(**arguments)


def trainer(package: ModuleType, **arguments: Any) -> Any:
    return package.Trainer(**{**QUIET, "max_epochs": 2, **arguments})


def fit(package: ModuleType, made: Any = None, **arguments: Any) -> Any:
    """Two epochs of four steps, validated and tested."""
    made = module(package) if made is None else made
    ran = trainer(package, **arguments)
    ran.fit(made, data(), data(8))
    ran.test(made, data(8), verbose=False)
    return ran


@cache
def logger_class(package: ModuleType) -> type:
    class Keeping(package.loggers.logger.Logger):  # type: ignore[name-defined, misc]
        """A logger of somebody else's: it keeps what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.given: Given = []
            self.params: dict[str, Any] = {}

        @property
        def name(self) -> str:
            return "keeping"

        @property
        def version(self) -> int:
            return 0

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            assert step is not None
            # Lightning 2.2 hands on what the module logged as `step` as it is, a float.
            self.given += [(name, value, int(step)) for name, value in metrics.items()]

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.params.update(params)

    return Keeping


def keeping(package: ModuleType) -> Any:
    return logger_class(package)()


@cache
def given(package: ModuleType) -> Given:
    """What a logger is given by `fit`, where nobody listens."""
    logger = keeping(package)
    with active.muted():
        fit(package, logger=logger)
    return list(logger.given)


def events(folder: Path | str) -> Given:
    """The scalars of all event files below a folder, each file's in order of name and step."""
    found: Given = []
    for file in sorted(Path(folder).rglob("events.out.tfevents.*")):
        scalars = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        found += [(tag, e.value, e.step) for tag in scalars.Tags()["scalars"] for e in scalars.Scalars(tag)]
    return found


def csv_rows(file: Path) -> Given:
    """What a CSVLogger's file says."""
    names, *lines = file.read_text().splitlines()
    rows = [dict(zip(names.split(","), line.split(","), strict=True)) for line in lines]
    return [
        (name, float(value), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if value and name != "step"
    ]
