"""The functions that optimizers are measured on, and the one count of evaluations that is believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tracelet.optim import batched

__all__ = ["BUDGET", "Landscape"]

BUDGET = 50_000
WIDTHS = {"rastrigin": 5.12, "rosenbrock": 5.0, "ackley": 32.0, "sphere": 100.0}


@dataclass
class Landscape:
    """A shifted (and perhaps rotated) function that counts, keeps the best it saw, and checks the bounds."""

    name: str
    dimensions: int
    seed: int
    rotated: bool = False
    evaluations: int = 0
    best: float = math.inf

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(90_000 + self.seed)
        self.width = WIDTHS[self.name]
        self.shift = (torch.rand(self.dimensions, generator=generator) * 2 - 1) * self.width * 0.4
        self.start = (torch.rand(self.dimensions, generator=generator) * 2 - 1) * self.width
        self.axes = None
        if self.rotated:
            noise = torch.randn(self.dimensions, self.dimensions, generator=generator, dtype=torch.float64)
            self.axes = torch.linalg.qr(noise).Q.float()

    def losses(self, points: Tensor) -> Tensor:
        """Of n points, (n,), in float32."""
        z = points - self.shift
        if self.axes is not None:
            z = z @ self.axes
        if self.name == "sphere":
            return z.square().sum(1)
        if self.name == "rastrigin":
            return (z.square() - 10 * torch.cos(2 * math.pi * z) + 10).sum(1)
        if self.name == "rosenbrock":
            z = z + 1
            return (100 * (z[:, 1:] - z[:, :-1].square()).square() + (1 - z[:, :-1]).square()).sum(1)
        far = -20 * torch.exp(-0.2 * z.square().mean(1).sqrt())
        return far - torch.exp(torch.cos(2 * math.pi * z).mean(1)) + 20 + math.e

    def judged(self) -> Callable[[Tensor], Tensor]:
        """The same as an objective."""

        @batched(flat=True)
        def objective(points: Tensor) -> Tensor:
            room = BUDGET - self.evaluations
            self.evaluations += len(points)
            if points.abs().max() > self.width:
                raise AssertionError("a point outside the bounds was evaluated")
            losses = self.losses(points)
            if room > 0:
                self.best = min(self.best, losses[:room].min().item())
            return losses

        return objective
