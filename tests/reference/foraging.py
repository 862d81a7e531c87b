"""Bacterial foraging as the paper tells it, one bacterium after the other: slow, and plainly right.

Passino (2002), with two readings that the vectorised form shares: the bacteria of one round signal from where they were when
it began, and squared distances of the signals are divided by the number of dimensions. Random numbers come in the same
arrays, in the same order, from a generator with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SlowBFO:
    """Passino's loops, in float64."""

    start: Tensor
    function: Callable[[Tensor], float]
    population_size: int
    chem_steps: int
    swim_length: int
    repro_steps: int
    elim_prob: float
    step_size: float
    bounds: tuple[float, float]
    seed: int
    swarming: tuple[float, float, float, float] | None = None
    dasgupta: float | None = None
    evaluations: int = 0
    rounds: int = 0
    best: float = math.inf
    best_position: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        low, high = self.bounds
        self.dimensions = self.start.numel()
        self.generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.population_size, self.dimensions, generator=self.generator, dtype=torch.float64)
        self.where = [(self.start + 0.2 * (high - low) * row).clamp(low, high) for row in noise]
        self.where[0] = self.start.clone()
        self.health = [0.0] * self.population_size
        self.judge_everybody()

    def judge(self, point: Tensor) -> float:
        self.evaluations += 1
        value = self.function(point)
        if value < self.best:
            self.best, self.best_position = value, point.clone()
        return value

    def judge_everybody(self) -> None:
        self.loss = [self.judge(point) for point in self.where]
        self.cost = list(self.loss)

    def signal(self, me: int, point: Tensor, colony: list[Tensor]) -> float:
        if self.swarming is None:
            return 0.0
        attract, attract_width, repel, repel_width = self.swarming
        total = 0.0
        for other, position in enumerate(colony):
            if other != me:
                distance = (
                    sum((float(a) - float(b)) ** 2 for a, b in zip(point, position, strict=True)) / self.dimensions
                )
                total += repel * math.exp(-repel_width * distance) - attract * math.exp(-attract_width * distance)
        return total

    def length(self, cost: float) -> float:
        if self.dasgupta is None:
            return self.step_size
        return self.step_size * abs(cost) / (abs(cost) + self.dasgupta)

    def round(self) -> None:
        """One chemotactic step of everybody; then, when it is time, reproduction and dispersal."""
        low, high = self.bounds
        colony = list(self.where)
        shape = (self.population_size, self.dimensions)
        deltas = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=self.generator)
        for i in range(self.population_size):
            last = self.loss[i] + self.signal(i, self.where[i], colony)
            run = self.length(last) * deltas[i] / math.sqrt(sum(float(d) ** 2 for d in deltas[i]))
            self.move(i, (self.where[i] + run).clamp(low, high), colony)
            swims = 0
            while swims < self.swim_length:
                swims += 1
                if self.cost[i] < last:
                    last = self.cost[i]
                    self.move(i, (self.where[i] + run).clamp(low, high), colony)
                else:
                    swims = self.swim_length
            self.health[i] += self.cost[i]
        self.rounds += 1
        if self.rounds % self.chem_steps == 0:
            self.reproduce()
            if self.rounds % (self.chem_steps * self.repro_steps) == 0:
                self.disperse()

    def move(self, i: int, point: Tensor, colony: list[Tensor]) -> None:
        self.where[i] = point
        self.loss[i] = self.judge(point)
        self.cost[i] = self.loss[i] + self.signal(i, point, colony)

    def reproduce(self) -> None:
        order = sorted(range(self.population_size), key=lambda i: self.health[i])
        dying = self.population_size // 2
        living = order[: self.population_size - dying] + order[:dying]
        self.where = [self.where[i].clone() for i in living]
        self.loss = [self.loss[i] for i in living]
        self.cost = [self.cost[i] for i in living]
        self.health = [0.0] * self.population_size

    def disperse(self) -> None:
        low, high = self.bounds
        leaves = torch.rand(self.population_size, 1, generator=self.generator, dtype=torch.float64)
        anywhere = torch.rand(self.population_size, self.dimensions, generator=self.generator, dtype=torch.float64)
        for i in range(self.population_size):
            if leaves[i, 0] < self.elim_prob:
                self.where[i] = low + (high - low) * anywhere[i]
        # The incumbent is judged beside them.
        self.judge_everybody()
        self.evaluations += 1
