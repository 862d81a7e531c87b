"""Functions to minimise, at points in rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tracelet.optim import batched


@batched(flat=True)
def sphere(points: Tensor) -> Tensor:
    return points.square().sum(1)


@batched(flat=True)
def rastrigin(points: Tensor) -> Tensor:
    return (points.square() - 10 * torch.cos(2 * math.pi * points) + 10).sum(1)


@batched(flat=True)
def rosenbrock(points: Tensor) -> Tensor:
    return (100 * (points[:, 1:] - points[:, :-1].square()).square() + (1 - points[:, :-1]).square()).sum(1)
