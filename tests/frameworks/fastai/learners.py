"""Learners on little data, and what arrived of them."""

from __future__ import annotations

from typing import Any

import torch
from fastai.basics import DataLoader, DataLoaders, Learner
from torch import nn

from tracelet.testing import Captured

__all__ = ["BATCHES", "accuracy", "data", "fit", "floats", "learner", "points", "values"]

BATCHES = 4


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A share, as fastai.metrics has it, without what that imports."""
    return (output.argmax(1) == target).float().mean()


class Rows:
    """A data set, as fastai wants it for an export."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.rows[place]

    def new_empty(self) -> Rows:
        return Rows([])


def silent(*_: Any) -> None:
    """In the place of print; it can be pickled."""


def data(**settings: Any) -> Any:
    """Four batches of sixteen, in order, and the same rows in one batch to validate."""
    x = torch.linspace(-1, 1, 64 * 8).view(64, 8).sin()
    rows = Rows(list(zip(x, (x[:, 0] * 7 % 1 > 0.5).long(), strict=True)))
    return DataLoaders(DataLoader(rows, bs=16, **settings), DataLoader(rows, bs=64, **settings), device="cpu")


def learner(model: Any = None, kind: Any = Learner, **settings: Any) -> Any:
    """A Learner that prints nothing."""
    torch.manual_seed(0)
    settings = {"loss_func": nn.functional.cross_entropy, "metrics": accuracy, **settings}
    made = kind(settings.pop("dls", None) or data(), nn.Linear(8, 2) if model is None else model, **settings)
    made.logger = silent
    made.remove_cb(made.progress) if hasattr(made, "progress") else None
    return made


def fit(epochs: int = 2, **settings: Any) -> Any:
    """A Learner that has trained."""
    made = learner(**settings)
    made.fit(epochs, 0.05)
    return made


def floats(numbers: Any) -> list[float]:
    return [float(number) for number in numbers]


def points(captured: Captured, name: str) -> list[tuple[int | None, float]]:
    """Steps and values of a metric, in the order in which they were recorded."""
    return [(point.step, point.value) for point in captured.points(name)]


def values(captured: Captured, name: str) -> list[float]:
    return [point.value for point in captured.points(name)]
