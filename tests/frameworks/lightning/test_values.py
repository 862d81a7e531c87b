"""What modules log arrives once, with the step that the loggers were given, whatever loggers there are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from tests.frameworks.lightning.training import (
    Given,
    csv_rows,
    data,
    events,
    fit,
    given,
    keeping,
    module,
    module_class,
    trainer,
)
from tests.support.mlflow_store import MlflowStore
from tracelet import testing


def arrived(cap: testing.Captured) -> Given:
    return [(point.name, point.value, point.step) for point in cap.points()]


def tensorboard(package: ModuleType, **arguments: Any) -> Any:
    return package.loggers.TensorBoardLogger("tb", default_hp_metric=False, **arguments)


def csv(package: ModuleType, **arguments: Any) -> Any:
    return package.loggers.CSVLogger("csv", **arguments)


LOGGERS: Mapping[str, Callable[[ModuleType], Any]] = {
    "none": lambda _: False,
    "csv": csv,
    "tensorboard": tensorboard,
    "third party": keeping,
    "csv, tensorboard": lambda package: [csv(package), tensorboard(package)],
    "tensorboard, third party, csv": lambda package: [tensorboard(package), keeping(package), csv(package)],
    "two of a kind": lambda package: [csv(package), csv(package, name="second"), keeping(package)],
}


@pytest.mark.parametrize("loggers", LOGGERS)
def test_each_value_once(package: ModuleType, cap: testing.Captured, loggers: str) -> None:
    ran = fit(package, logger=LOGGERS[loggers](package))
    assert arrived(cap) == given(package)
    assert {point.log_dir for point in cap.points()} == {str(Path("tb/lightning_logs/version_0").resolve()) * ("tensorboard" in loggers)}
    last = {point.name: point.value for point in cap.points()}
    assert {name: last[name] for name in ran.logged_metrics} == {n: float(v) for n, v in ran.logged_metrics.items()}
